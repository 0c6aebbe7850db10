"""What the commands share of writing to a terminal: people read standard error, programs read standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

console = Console()
notes = Console(stderr=True)


def complain(message: str) -> None:
    """One line on standard error."""
    notes.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True, highlight=False)


def write_json(value: Any) -> None:
    """JSON on standard output, nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """A spinner instead of transformers' bar a checkpoint."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with notes.status(f"loading {name}"):
        yield


def progress_bar() -> Progress:
    """A bar with the time left, on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
    )
