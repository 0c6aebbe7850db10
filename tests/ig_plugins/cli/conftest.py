"""The command line in this process, as `inferenceguard` runs it."""

import sys

import pytest

from ig_plugins import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and standard error."""

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
