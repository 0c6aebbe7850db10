"""Runs the code of docs/llama_index.md, block by block in one namespace, and keeps what it prints.

    python tests/adapters/llama_index_/docs_page.py     # writes the outputs of today's models into the page

A ```python block that is followed by a ```text block has the latter as its output.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "llama_index.md"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.S)


def outputs(page: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each block with what it prints now."""
    namespace: dict[str, Any] = {"__name__": "docs"}
    for block in BLOCK.finditer(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], str(PAGE), "exec"), namespace)
        yield block, printed.getvalue()


def refreshed(page: str) -> str:
    """The page with the outputs of now."""
    pieces, end = [], 0
    for block, printed in outputs(page):
        pieces += [page[end : block.start()], f"```python\n{block['code']}```\n"]
        if printed:
            pieces.append(f"\n```text\n{printed}```\n")
        end = block.end()
    return "".join([*pieces, page[end:]])


if __name__ == "__main__":
    sys.path[:0] = [str(PAGE.parents[1]), str(PAGE.parents[1] / "adapters")]
    PAGE.write_text(refreshed(PAGE.read_text()))
