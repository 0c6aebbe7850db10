"""``inferenceguard generate``: one guarded answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Unpack

from ig_plugins.call_options import CallOptions
from ig_plugins.cli import options, output
from ig_plugins.errors import InferenceGuardError

if TYPE_CHECKING:
    from rich.table import Table

    from ig_plugins.guard import GuardResult, InferenceGuard


@options.with_call_options()
@options.with_parts()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[
        str, typer.Option(help="A preset, a hub id, a folder, a GGUF file or a server's address.")
    ] = "tiny-beaver",
    stream: Annotated[bool, typer.Option("--stream", help="Print verified text as it is released.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The whole result as JSON on standard output.")] = False,
    *,
    parts: dict[str, Any],
    **call: Unpack[CallOptions],
) -> None:
    """Answer one prompt, guarded."""
    from ig_plugins import InferenceGuard

    with output.loading(model):
        guard = InferenceGuard.from_pretrained(model, **parts, **call)
    result = _streamed(guard, prompt) if stream and not json else guard.generate(prompt)
    if json:
        output.write_json(result.model_dump(mode="json"))
        return
    if not stream:
        output.write_text(result.text.strip())
    output.notes.print(ledger(result))


def _streamed(guard: InferenceGuard, prompt: str) -> GuardResult:
    """Prints verified text as it is released; the result comes with the last chunk."""
    for chunk in guard.stream(prompt):
        output.console.out(chunk.text, end="", highlight=False)
        if chunk.result is not None:
            output.console.out("")
            return chunk.result
    raise InferenceGuardError("the stream ended without a result; please report this as a bug")


def ledger(result: GuardResult) -> Table:
    """The ledger of blocks as a table, with the totals below it."""
    from rich.table import Table

    table = Table(
        title=f"blocked: {result.reason}" if result.blocked else None, title_style="bold red", box=None, pad_edge=False
    )
    for name in ("block", "candidates", "judged safe", "tries", "cost", "budget left"):
        table.add_column(name, justify="right")
    for block in result.blocks:
        table.add_row(
            str(block.index),
            str(block.candidates),
            str(block.safe),
            str(block.tries),
            number(block.cost),
            number(block.safety_state),
        )
    usage = result.usage
    table.caption = (
        f"cost {number(result.cost)}, budget left {number(result.safety_state)}, reward {number(result.reward)}; "
        f"{usage.completion_tokens} tokens out of {usage.candidate_tokens} sampled, "
        f"{usage.judge_tokens} read by judges in {usage.judge_calls} calls; "
        f"{result.seconds:.2f} s, seed {result.seed}"
    )
    table.caption_justify = "left"
    return table


def number(value: float | None) -> str:
    """A figure for people; a dash where nothing was measured."""
    return "-" if value is None else f"{value:.2f}"
