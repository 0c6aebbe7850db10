"""``inferenceguard serve``: the guard behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ig_plugins.cli import options, output

MIB = 2**20


@options.with_call_options()
def serve(
    model: Annotated[
        str, typer.Option(help="A preset, a hub id, a local folder or a server's address.")
    ] = "tiny-beaver",
    cost_model: options.CostModel = None,
    reward_model: options.RewardModel = None,
    tokenizer: options.Tokenizer = None,
    load_option: options.LoadOption = None,
    certificate: Annotated[str | None, typer.Option(help="Refuse to serve what it was not made for.")] = None,
    outside_certificate: Annotated[
        str, typer.Option(help="A request that the certificate does not speak of: refuse, or mark its answer.")
    ] = "refuse",
    host: Annotated[str, typer.Option(help="Loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take; clients may ask for less.")] = 120.0,
    api_keys: Annotated[Path | None, typer.Option(help="A file with one key a line; clients need one of them.")] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="A JSON line a request on standard error.")] = False,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of a request's body.")] = MIB,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="By default the model's context.")] = None,
    max_candidates: Annotated[int, typer.Option(min=1, help="That a request may ask for.")] = 128,
    max_beams: Annotated[int, typer.Option(min=1, help="That a request may ask for.")] = 64,
    max_block_tokens: Annotated[int, typer.Option(min=1, help="That a request may ask for.")] = 128,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="That a request may ask for.")] = 4096,
    max_tries: Annotated[int, typer.Option(min=1, help="Of a block.")] = 8,
    max_lane_tokens: Annotated[int, typer.Option(min=1, help="Lanes times tokens of a block.")] = 4096,
    max_running: Annotated[int, typer.Option(min=1, help="Requests decoded at once.")] = 16,
    max_queued: Annotated[int, typer.Option(min=0, help="Requests that wait; more get status 429.")] = 64,
    max_memory: Annotated[int | None, typer.Option(min=1, help="MiB of all requests; by default half of it.")] = None,
    max_connections: Annotated[int, typer.Option(min=1, help="Open at once.")] = 256,
    head_seconds: Annotated[float, typer.Option(help="For the head of a request to arrive.")] = 10.0,
    body_seconds: Annotated[float, typer.Option(help="For its body to arrive.")] = 30.0,
    send_seconds: Annotated[float, typer.Option(help="For a client to take what it is sent.")] = 30.0,
    drain_seconds: Annotated[float, typer.Option(help="For answers under way, when the service ends.")] = 30.0,
    **call: Any,
) -> None:
    """Serve an OpenAI-style chat endpoint whose every answer is verified."""
    output.check_extra("server", "fastapi", "uvicorn")
    from ig_plugins import InferenceGuard
    from ig_plugins.guard.certificate import Certificate
    from ig_plugins.guard.options import configuration_errors
    from ig_plugins.server import Limits, create_app, listen
    from ig_plugins.server import serve as run

    with configuration_errors():
        limits = Limits(
            timeout=timeout,
            body_bytes=max_body_bytes,
            prompt_tokens=max_prompt_tokens,
            candidates=max_candidates,
            beams=max_beams,
            block_tokens=max_block_tokens,
            max_tokens=max_answer_tokens,
            tries=max_tries,
            lane_tokens=max_lane_tokens,
            running=max_running,
            queued=max_queued,
            memory_bytes=None if max_memory is None else max_memory * MIB,
            connections=max_connections,
            head_seconds=head_seconds,
            body_seconds=body_seconds,
            send_seconds=send_seconds,
            drain_seconds=drain_seconds,
        )
    if certificate is not None:
        Certificate.load(certificate)
    keys = _keys(api_keys)
    bound = listen(host, port)
    with bound:
        with output.loading(model):
            guard = InferenceGuard.from_pretrained(
                model,
                cost_model=cost_model,
                reward_model=reward_model,
                tokenizer=tokenizer,
                load_options=options.load_options(load_option),
                certificate=certificate,
                outside_certificate=outside_certificate,  # type: ignore[arg-type]  # checked there
                **call,
            )
        app = create_app(guard, limits=limits, keys=keys)
        if access_log:
            _log_access()
        at = bound.getsockname()[1]
        output.notes.print(f"serving {model} at http://{host}:{at}/v1/chat/completions", highlight=False, markup=False)
        run(app, limits=limits, bound=bound, say=lambda text: output.notes.print(text, highlight=False, markup=False))


def _keys(path: Path | None) -> list[str]:
    """The keys of a file; they are not an option, because other users of a machine can read those."""
    from ig_plugins.errors import ConfigurationError

    if path is None:
        return []
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"--api-keys '{path}' cannot be read as text; give a file with one key a line"
        ) from error
    if not keys:
        raise ConfigurationError(f"--api-keys '{path}' holds no key; write one a line, or leave the option out")
    return keys


def _log_access() -> None:
    import logging

    logger = logging.getLogger("inferenceguard.access")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
