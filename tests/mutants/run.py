"""Applies small changes to a copy of the code, one at a time, and says which ones no test noticed.

    python -m tests.mutants.run            all of them
    python -m tests.mutants.run --quick    a few, for CI
    python -m tests.mutants.run -k draw    those whose name holds a word, or one of several: "a or b"

Heavy libraries are imported once; every change is tested in a fork. A change survives where the tests that ought to
notice it pass. Exit status 1 if one survives, cannot be applied, or breaks more than it is about (an import).
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("ig_plugins", "critic_models", "adapters", "tests", "examples", "pyproject.toml", "README.md", "docs")
PRELOADED = (
    "torch",
    "transformers",
    "tokenizers",
    "pydantic",
    "hypothesis",
    "pytest",
    "langchain_core.language_models",
)
SECONDS = 120  # for the tests of one mutant; one whose tests never end is noticed too
PASSED, FAILED = 0, 1  # pytest's exit codes; all others are no verdict
ENDLESS = -signal.SIGKILL


def main() -> int:
    """Tests the chosen mutants and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the quick ones")
    parser.add_argument("-k", default="", help="only names that hold this")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th one from the i-th")
    options = parser.parse_args()
    index, count = map(int, options.shard.split("/"))
    words = options.k.split(" or ")
    named = [m for m in MUTANTS if any(word in m.name for word in words)]
    chosen = [m for m in named if m.quick or not options.quick][index::count]
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(place, copy / name)
        sound = {}
        for file, tests in _by_file(chosen).items():
            sound[file] = _tested(copy, tests)
            if sound[file] != PASSED:
                print(
                    f"the tests {' '.join(tests)} do not pass without any change (pytest exit {sound[file]})",
                    flush=True,
                )
        bad = [mutant for mutant in chosen if sound[mutant.tests[0]] != PASSED or not _killed(copy, mutant)]
    print(f"{len(chosen) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad or not chosen else 0


def _by_file(mutants: list[Mutant]) -> dict[str, tuple[str, ...]]:
    """For each file of tests, the pytest arguments for all that some mutant names of it."""
    words: dict[str, set[str]] = {}
    for mutant in mutants:
        file, *chosen = mutant.tests
        words.setdefault(file, set()).add(chosen[1] if chosen else "")
    return {file: (file,) if "" in found else (file, "-k", " or ".join(sorted(found))) for file, found in words.items()}


def _killed(copy: Path, mutant: Mutant) -> bool:
    """Whether the tests notice a change."""
    path = copy / mutant.path
    source = path.read_text()
    start = time.monotonic()
    if source.count(mutant.old) != 1:
        print(f"STALE     {mutant.name}: {mutant.path} holds the old text {source.count(mutant.old)} times, not once")
        return False
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        code = _tested(copy, mutant.tests)
    finally:
        path.write_text(source)
    verdict = {PASSED: "SURVIVED", FAILED: "killed", ENDLESS: "killed"}.get(code, f"BROKEN {code}")
    print(f"{verdict:9} {mutant.name}  ({time.monotonic() - start:.1f} s)", flush=True)
    return verdict == "killed"


def _tested(copy: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit code, or minus the signal that ended it, in a fork that sees only the copy."""
    child = os.fork()
    if child == 0:
        sys.dont_write_bytecode = True
        os.chdir(copy)
        sys.path[:] = [str(copy), str(copy / "adapters"), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "ig_plugins", "critic_models")]:
            del sys.modules[name]
        quiet = os.open(os.environ.get("MUTANT_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        import pytest
        import torch

        torch.set_num_threads(1)
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
        os._exit(int(pytest.main(arguments)))
    # From outside: pytest's own timeout takes the alarm, and a handler in Python waits for a regular expression's end.
    watch = threading.Timer(SECONDS, os.kill, (child, signal.SIGKILL))
    watch.start()
    _, status = os.waitpid(child, 0)
    watch.cancel()
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
