"""The command line in this process, as `inferenceguard` runs it."""

import sys
from functools import cache

import pytest
import typer

from ig_plugins import cli

APP = cli.app


@cache
def command(asked=None):
    """What typer makes of the commands whenever they are called: half of the time of a line that is refused."""
    return typer.main.get_command(APP(asked))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and standard error."""

    monkeypatch.setattr(cli, "app", command)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["inferenceguard", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
