"""The command line, ``inferenceguard``."""

from __future__ import annotations

import sys

import typer

from ig_plugins.cli import output


def app() -> typer.Typer:
    """The commands. Each imports what it needs when it runs, so that ``--help`` is instant."""
    from ig_plugins.cli.bench import bench
    from ig_plugins.cli.calibrate import calibrate
    from ig_plugins.cli.demo import demo
    from ig_plugins.cli.evaluate import evaluate
    from ig_plugins.cli.generate import generate
    from ig_plugins.cli.presets import presets
    from ig_plugins.cli.serve import serve
    from ig_plugins.cli.train_critic import train_critic
    from ig_plugins.cli.train_judge import train_judge

    made = typer.Typer(
        name="inferenceguard",
        help="Guarded decoding for open-weight language models: safe and helpful, without retraining.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (demo, generate, presets, evaluate, calibrate, train_critic, train_judge, bench, serve):
        made.command()(command)
    return made


def main() -> None:
    """Runs the command line; bad input ends it with exit code 2 and one line."""
    from ig_plugins.errors import InferenceGuardError

    try:
        app()()
    except InferenceGuardError as error:
        output.complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        output.complain("interrupted")
        sys.exit(130)
