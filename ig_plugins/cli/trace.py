"""``inferenceguard trace``: how an answer was found, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Unpack

from ig_plugins.call_options import CallOptions
from ig_plugins.cli import options, output

if TYPE_CHECKING:
    from ig_plugins.page import Document


@options.with_call_options(without=("on_block",))
@options.with_parts()
def trace(
    prompt: Annotated[str | None, typer.Argument(help="What to ask.")] = None,
    html: Annotated[Path | None, typer.Option(help="The page: one file that needs no other.")] = None,
    json: Annotated[Path | None, typer.Option(help="The same as JSON, for --from.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A file of --json, or a result with its trace; nothing is asked.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A preset, a hub id, a folder, a GGUF file or a server's address.")
    ] = "tiny-beaver",
    no_unguarded: Annotated[
        bool, typer.Option("--no-unguarded", help="Leave out the unguarded answer beside the guarded one.")
    ] = False,
    *,
    parts: dict[str, Any],
    **call: Unpack[CallOptions],
) -> None:
    """Show how an answer was found, block by block.

    Every lane, and what left when. For operators: it has unsafe text.
    """
    from ig_plugins.errors import ConfigurationError

    if (prompt is None) == (source is None):
        raise ConfigurationError("give a prompt, or a saved result with --from; one of the two")
    if html is None and json is None:
        raise ConfigurationError("there is nowhere to write to; give --html out.html, --json out.json, or both")
    for path, option in ((html, "--html"), (json, "--json")):
        if path is not None:
            output.check_file(path, option=option)
    from ig_plugins.page import load, page

    document = load(source) if source is not None else _asked(str(prompt), model, parts, call, beside=not no_unguarded)
    if html is not None:
        _write(html, page(document))
    if json is not None:
        _write(json, document.model_dump_json(indent=1) + "\n")
    written = " and ".join(str(path) for path in (html, json) if path is not None)
    output.notes.print(f"written: {written}", highlight=False, markup=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")  # half of a surrogate pair cannot be written


def _asked(prompt: str, model: str, parts: dict[str, Any], call: CallOptions, *, beside: bool) -> Document:
    """A new answer with its trace."""
    from ig_plugins import InferenceGuard
    from ig_plugins.page import Document, unguarded

    with output.loading(model):
        guard = InferenceGuard.from_pretrained(model, **parts, **call)
    result = guard.generate(prompt, trace=True, on_block="refuse")  # a blocked answer has a page as well
    plain = unguarded(guard.components, guard.request(prompt, seed=guard.numbered(result.seed))) if beside else None
    return Document(model=model, result=result, unguarded=plain)
