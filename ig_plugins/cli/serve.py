"""``inferenceguard serve``: the guard behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer
from typing_extensions import Unpack

from ig_plugins.call_options import CallOptions
from ig_plugins.cli import options, output


@options.with_call_options()
def serve(
    model: Annotated[str, typer.Option(help="A preset, a hub id or a local folder.")] = "tiny-beaver",
    cost_model: options.CostModel = None,
    reward_model: options.RewardModel = None,
    certificate: Annotated[str | None, typer.Option(help="Refuse to serve what it was not made for.")] = None,
    outside_certificate: Annotated[
        str, typer.Option(help="A request that the certificate does not speak of: refuse, or mark its answer.")
    ] = "refuse",
    host: Annotated[str, typer.Option(help="Loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    **call: Unpack[CallOptions],
) -> None:
    """Serve an OpenAI-style chat endpoint whose every answer is verified."""
    try:
        import uvicorn

        from ig_plugins.server import create_app
    except ImportError as error:
        from ig_plugins.errors import ConfigurationError

        raise ConfigurationError(f"{error.name} is missing; pip install 'inferenceguard[server]'") from error
    from ig_plugins import InferenceGuard

    with output.loading(model):
        guard = InferenceGuard.from_pretrained(
            model,
            cost_model=cost_model,
            reward_model=reward_model,
            certificate=certificate,
            outside_certificate=outside_certificate,  # type: ignore[arg-type]  # checked there
            **call,
        )
    output.notes.print(f"serving {model} at http://{host}:{port}/v1/chat/completions", highlight=False)
    uvicorn.run(create_app(guard), host=host, port=port, log_level="warning")
