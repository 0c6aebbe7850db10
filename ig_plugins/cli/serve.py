"""``inferenceguard serve``: guards behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ig_plugins.cli import options, output

if TYPE_CHECKING:
    from ig_plugins.guard import InferenceGuard

MIB = 2**20
FIRST = 60.0  # seconds for the answer to a first question, before there are clients
LIMITS = {  # options by the names of their ceilings, where these differ
    "max_body_bytes": "body_bytes",
    "max_prompt_tokens": "prompt_tokens",
    "max_candidates": "candidates",
    "max_beams": "beams",
    "max_block_tokens": "block_tokens",
    "max_answer_tokens": "max_tokens",
    "max_tries": "tries",
    "max_lane_tokens": "lane_tokens",
    "max_answers": "answers",
    "max_running": "running",
    "max_queued": "queued",
    "max_connections": "connections",
    **{name: name for name in ("timeout", "head_seconds", "body_seconds", "send_seconds", "drain_seconds")},
}
SERVER = ("host", "port", "api_keys", "access_log", "cors", "metrics", "telemetry", "ui")


@options.with_call_options()
@options.with_parts()
def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file that says what is served (docs/serving.md).")] = None,
    model: Annotated[
        str | None, typer.Option(help="A preset, a hub id, a folder or a server's address; tiny-beaver.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Refuse to serve what it was not made for.")] = None,
    outside_certificate: Annotated[
        str | None, typer.Option(help="A request that the certificate does not speak of: refuse, or mark its answer.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="127.0.0.1 unless you say otherwise.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8000; 0 takes any that is free.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds of an answer, 120; clients may ask for less.")] = None,
    api_keys: Annotated[Path | None, typer.Option(help="A file with one key a line; clients need one of them.")] = None,
    access_log: Annotated[
        bool | None, typer.Option("--access-log", help="A JSON line a request on standard error.")
    ] = None,
    cors: Annotated[list[str] | None, typer.Option(help="An origin of web pages that may ask; may repeat.")] = None,
    metrics: Annotated[bool | None, typer.Option(help="/metrics for Prometheus.")] = None,
    telemetry: Annotated[bool | None, typer.Option(help="OpenTelemetry spans.")] = None,
    ui: Annotated[bool | None, typer.Option("--ui", help="/ui for operators: it shows text that did not pass.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(min=1, help="Of a request's body; 1 MiB.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="By default the model's context.")] = None,
    max_candidates: Annotated[int | None, typer.Option(min=1, help="That a request may ask for; 128.")] = None,
    max_beams: Annotated[int | None, typer.Option(min=1, help="That a request may ask for; 64.")] = None,
    max_block_tokens: Annotated[int | None, typer.Option(min=1, help="That a request may ask for; 128.")] = None,
    max_answer_tokens: Annotated[int | None, typer.Option(min=1, help="That a request may ask for; 4096.")] = None,
    max_tries: Annotated[int | None, typer.Option(min=1, help="That a request may ask for; 8.")] = None,
    max_lane_tokens: Annotated[int | None, typer.Option(min=1, help="Lanes times tokens of a block; 4096.")] = None,
    max_answers: Annotated[int | None, typer.Option(min=1, help="Of a request: n times its prompts; 8.")] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Requests decoded at once; 16.")] = None,
    max_queued: Annotated[int | None, typer.Option(min=0, help="Requests that wait, 64; more get status 429.")] = None,
    max_memory: Annotated[int | None, typer.Option(min=1, help="MiB of all requests; by default half of it.")] = None,
    max_connections: Annotated[int | None, typer.Option(min=1, help="Open at once; 256.")] = None,
    head_seconds: Annotated[float | None, typer.Option(help="For a request's head to arrive; 10.")] = None,
    body_seconds: Annotated[float | None, typer.Option(help="For its body; 30.")] = None,
    send_seconds: Annotated[float | None, typer.Option(help="For a client to take what it is sent; 30.")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="For answers under way, when the service ends; 30.")
    ] = None,
    *,
    parts: dict[str, Any],
    **call: Any,
) -> None:
    """Serve an OpenAI-style endpoint of verified answers."""
    own = {name: value for name, value in locals().items() if name not in ("parts", "call")}
    given = {name: value for name, value in own.items() if value not in (None, [])}
    options_of_calls = {name: value for name, value in call.items() if value not in (None, [])}
    output.check_extra("server", "fastapi", "uvicorn")
    from ig_plugins import telemetry as spans
    from ig_plugins.server import config as configuration
    from ig_plugins.server import create_app, listen
    from ig_plugins.server import serve as run
    from ig_plugins.server.ui import check_reach

    said = _said(given, parts, options_of_calls)
    wanted = configuration.read(config, environment=os.environ, said=said)
    for table in wanted.models.values():
        table.check()
    keys, server = wanted.keys, wanted.server
    if server.ui:
        check_reach(server.host, keyed=bool(keys))
    bound = listen(server.host, server.port)
    with bound:
        guards, faults = {}, {}
        for name, table in wanted.models.items():
            with output.loading(table.model):
                guards[name] = table.load()
                faults[name] = _fault(guards[name])
        if server.telemetry:
            spans.start()
        app = create_app(
            guards,
            limits=wanted.limits,
            keys=keys,
            aliases=wanted.aliases,
            **{name: getattr(server, name) for name in ("cors", "metrics", "telemetry", "completions", "ui")},
        )
        if server.access_log:
            _log_access()
        at = f"http://{server.host}:{bound.getsockname()[1]}/v1/chat/completions"
        _note(f"serving {', '.join(guards)} at {at}")
        for each in app.state.models.served:
            _note(f"  {each.statement()}")
            if fault := faults[each.name]:
                _note(f"  warning: {each.name} failed at a first question: {fault}")
        run(app, limits=wanted.limits, bound=bound, say=_note)


def _said(given: dict[str, Any], parts: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
    """The options as tables of a configuration.

    Raises:
        ConfigurationError: A model is named beside a configuration, which names them.
    """
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.server.served import name_of

    limits = {LIMITS[name]: value for name, value in given.items() if name in LIMITS}
    if "max_memory" in given:
        limits["memory_bytes"] = given["max_memory"] * MIB
    said: dict[str, Any] = {"limits": limits, "server": {name: given[name] for name in SERVER if name in given}}
    named = ("model", "certificate", "outside_certificate")
    table: dict[str, Any] = {name: given[name] for name in named if name in given}
    table |= {name: value for name, value in parts.items() if value is not None}
    if "config" in given:
        if extra := [*table, *call]:
            name = {"load_options": "load-option"}.get(extra[0], extra[0].replace("_", "-"))
            name = "no-critic" if table.get(extra[0]) is False else name
            raise ConfigurationError(f"--{name} says what is served, and so does --config; write it into the file")
        return said
    table.setdefault("model", "tiny-beaver")
    return {**said, "models": {name_of(table["model"]): {**table, "options": call}}}


def _fault(guard: InferenceGuard) -> str | None:
    """Why a guard cannot answer now: a judge that returns something else, a server that is away."""
    from ig_plugins.errors import InferenceGuardError

    try:
        guard.generate("Hello", seed=0, timeout=FIRST, on_block="empty")
    except InferenceGuardError as error:
        return str(error)
    return None


def _note(text: str) -> None:
    output.notes.print(text, highlight=False, markup=False, soft_wrap=True)


def _log_access() -> None:
    import logging

    logger = logging.getLogger("inferenceguard.access")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
