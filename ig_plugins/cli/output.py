"""What the commands share of writing: people read standard error, programs read standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    console: Console
    notes: Console

UNWRAPPED = 10_000  # columns of a file or a pipe, which nobody reads through a window of 80
PROBE = 4096  # bytes written to see whether a disk has room


def __getattr__(name: str) -> Console:
    """``console`` is standard output, and ``notes`` standard error; a help text needs neither."""
    if name not in ("console", "notes"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _console(stderr=name == "notes")


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    wide = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=UNWRAPPED if wide else None)


def complain(message: str) -> None:
    """One line on standard error; a mistyped command need not wait for rich."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    head = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    sys.stderr.write(f"{head} {' '.join(message.split())}\n")
    sys.stderr.flush()


def write_text(text: str) -> None:
    """A text on standard output: wrapped between words on a terminal, as it is elsewhere."""
    console = _console(stderr=False)
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def write_json(value: Any) -> None:
    """JSON on standard output, nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def check_file(path: Path, *, option: str = "--out") -> None:
    """Sees to it, before any work is done, that a file can be written there; nothing is left behind.

    Raises:
        ConfigurationError: It cannot; the message says why.
    """
    _check_place(path, path.parent, option, "a file", lambda: path.exists() and not path.is_file())


def check_folder(path: Path, *, option: str = "--out") -> None:
    """As `check_file`, for files in a folder that need not exist yet."""
    _check_place(path, path, option, "a folder", lambda: path.exists() and not path.is_dir())


def _check_place(path: Path, folder: Path, option: str, wanted: str, taken: Any) -> None:
    import tempfile

    from ig_plugins.errors import ConfigurationError

    try:
        if taken():
            raise ConfigurationError(f"{option} '{path}' is there and is not {wanted}; give {wanted}, or a new name")
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise ConfigurationError(f"{option} '{path}' is under '{folder}', which is a file; give another place")
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise ConfigurationError(
            f"{option} '{path}' cannot be written: {error.strerror}; give another place"
        ) from error


def check_extra(extra: str, *modules: str) -> None:
    """Sees to it that an extra's packages are installed, without importing them.

    Raises:
        ConfigurationError: One is missing; the message says how to get it.
    """
    from importlib.util import find_spec

    from ig_plugins.errors import ConfigurationError

    for module in modules:
        if find_spec(module) is None:
            raise ConfigurationError(f"{module} is missing; pip install 'inferenceguard[{extra}]'")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """A spinner instead of transformers' bar a checkpoint."""
    from rich.markup import escape
    from transformers.utils import logging

    logging.disable_progress_bar()
    with _console(stderr=True).status(f"loading {escape(name)}"):
        yield


def progress_bar() -> Progress:
    """A bar with the time left, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_console(stderr=True),
        transient=True,
        disable=not _console(stderr=True).is_terminal,
    )
