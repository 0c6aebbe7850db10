"""A misspelt option or a wrong value is an error in a user's editor, and a right call is none."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("misspelt.py", "right.py")
PATHS = (str(ROOT), str(ROOT / "adapters"))


def marked() -> set[int]:
    lines = (Path(__file__).parent / "misspelt.py").read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if "# fault" in line}


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode in (0, 1), done.stderr or done.stdout
    return done.stdout


def test_the_script_has_six_faults():
    assert len(marked()) == 6


def test_pyright_finds_exactly_the_six(tmp_path):
    """By the fork that comes with its own node, in pyright's standard mode."""
    pytest.importorskip("basedpyright", reason="it is in the lint group")
    asked = {
        "include": [str(Path(__file__).parent / name) for name in SCRIPTS],
        "extraPaths": PATHS,
        "typeCheckingMode": "standard",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(asked))
    told = json.loads(run("basedpyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)))
    assert told["summary"]["filesAnalyzed"] == len(SCRIPTS)
    found = {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in told["generalDiagnostics"]
        if each["severity"] == "error"
    }
    assert found == {("misspelt.py", line) for line in marked()}


def check_by_mypy(config: Path, cache: str) -> None:
    pytest.importorskip("mypy", reason="it is in the lint group")
    scripts = [str(Path(__file__).parent / name) for name in SCRIPTS]
    told = run("mypy", "--config-file", str(config), "--cache-dir", cache, *scripts)
    found = set(re.findall(r"(\w+\.py):(\d+): error", told))
    assert found == {("misspelt.py", str(line)) for line in marked()}, told


def test_mypy_finds_exactly_the_six_with_our_settings():
    """Strict, and with pydantic's plugin; what `make lint` has read before is not read again."""
    check_by_mypy(ROOT / "pyproject.toml", ".mypy_cache")


@pytest.mark.slow
def test_mypy_finds_exactly_the_six_as_users_have_it(tmp_path):
    settings = ["[mypy]", f"mypy_path = {':'.join(PATHS)}", "explicit_package_bases = True"]
    (tmp_path / "mypy.ini").write_text("\n".join(settings))
    check_by_mypy(tmp_path / "mypy.ini", ".mypy_cache/plain")
