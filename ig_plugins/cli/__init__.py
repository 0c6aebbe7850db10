"""The command line, ``inferenceguard``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from ig_plugins.cli import output, threads

INTERRUPTED = 130  # as shells say it of SIGINT; typer catches the exception and returns this
RESUMED = ("evaluate", "calibrate", "train-critic")  # commands that go on where they stopped
BUG = 70  # sysexits' "internal software error": nothing that the user typed
DEBUG = "INFERENCEGUARD_DEBUG"
_UsageError: Any = typer.BadParameter.__mro__[2]  # click's ClickException, wherever this typer keeps click


COMMANDS = {  # in the order of the help text; each in a module of its own
    "demo": "demo", "generate": "generate", "trace": "trace", "presets": "presets", "evaluate": "evaluate",
    "calibrate": "calibrate", "train-critic": "train_critic", "train-judge": "train_judge", "bench": "bench",
    "serve": "serve",
}  # fmt: skip


def app(asked: str | None = None) -> typer.Typer:
    """The commands. Each imports what it needs when it runs, so that ``--help`` is instant.

    Args:
        asked: The one that is asked for; the others are left out then. All of them where there is no such command.
    """
    made = typer.Typer(
        name="inferenceguard",
        help="Guarded decoding for open-weight language models: safe and helpful, without retraining.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich takes as long to load as all the rest
        context_settings={"default_map": {"help": False}},  # for None, typer would ask pydantic whether it is a truth
    )
    made.callback()(_root)
    for name in [asked] if asked is not None and asked in COMMANDS else COMMANDS:
        module = import_module(f"ig_plugins.cli.{COMMANDS[name]}")
        made.command(name)(getattr(module, COMMANDS[name]))
    return made


def main() -> None:
    """Runs the command line; bad input ends it with exit code 2 and one line on standard error."""
    from ig_plugins.errors import InferenceGuardError

    threads.prepare()
    asked = sys.argv[1] if len(sys.argv) > 1 else None
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a run
    try:
        code = app(asked)(standalone_mode=False)
        sys.stdout.flush()  # a full disk is found out here, not while the interpreter ends
    except _UsageError as error:
        code = _misused(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # `inferenceguard presets | head -1`: nobody reads any more
        code = 1
    except InferenceGuardError as error:
        output.complain(_told(error))
        code = 2
    except OSError as error:
        output.complain(f"{error.filename or 'cannot write'}: {error.strerror or error}; check the path and the disk")
        code = 2
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        output.complain(f"{type(error).__name__}: {error}; please report this as a bug, {DEBUG}=1 shows where")
        code = BUG
    if code == INTERRUPTED:
        again = "; the same line goes on where this one stopped" if asked in RESUMED else ""
        output.complain(f"interrupted{again}")
    sys.exit(_flushed(code if isinstance(code, int) else 0))


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda on: _version(on), help="Show the version.")
    ] = False,
) -> None: ...


def _version(wanted: bool) -> None:
    if wanted:
        from ig_plugins import __version__

        sys.stdout.write(f"inferenceguard {__version__}\n")
        raise typer.Exit


def _misused(error: Any) -> int:
    """A command line that cannot be read: what is wrong with it, and what was perhaps meant."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    near, context = getattr(error, "possibilities", None), getattr(error, "ctx", None)
    message = (error.message if near else error.format_message()).rstrip(".")
    if near:
        message += f". Did you mean {' or '.join(sorted(near))}?"
    elif context and "Did you mean" not in message:
        message += f"; see {context.command_path} --help"
    output.complain(message)
    return int(error.exit_code)


def _told(error: BaseException) -> str:
    """An error's message; for a judge that failed also what it raised."""
    from ig_plugins.errors import JudgeError

    cause = error.__cause__
    if not isinstance(error, JudgeError) or cause is None or str(cause) in str(error):
        return str(error)
    return f"{error} ({type(cause).__name__}: {cause})"


def _flushed(code: int) -> int:
    """The exit code, after standard output has been closed: what is left in it cannot raise any more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
