"""The documentation holds together: links, decisions, and an API reference of every public name."""

import re
import subprocess
import sys
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RECORDS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
PUBLIC = ("ig_plugins", "critic_models", "langchain_inferenceguard", "llama_index.llms.inferenceguard")


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_a_dead_link_is_noticed(tmp_path):
    (tmp_path / "page.md").write_text("[here](page.md#part), [there](gone.md), [out](https://example.org)")
    assert dead_links(tmp_path / "page.md") == ["gone.md"]


def test_decisions_are_short_records_that_architecture_names():
    named = re.findall(r"\(docs/decisions/(0[\w-]+\.md)\)", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert [record.name for record in RECORDS] == named
    assert [int(name[:4]) for name in named] == list(range(1, len(named) + 1))
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    for record in RECORDS:
        text = record.read_text(encoding="utf-8")
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequence"], (
            record.name
        )
        assert 5 <= len(text.splitlines()) <= 20, record.name
        assert f"({record.name})" in index


def test_where_to_find_a_rule_is_true():
    """Every row of ARCHITECTURE's table names a file, and functions that stand in it."""
    table = (
        (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Where to find it")[2].partition("\n## ")[0]
    )
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ") and "`" in row.split("|")[2]]
    assert len(rows) >= 9
    for row in rows:
        path, *names = re.findall(r"`([^`]+)`", row)
        source = (ROOT / path).read_text(encoding="utf-8")
        assert [name for name in names if not re.search(rf"^\s*(?:def|class) {name}\b", source, re.MULTILINE)] == [], (
            path
        )


def test_the_reference_has_every_public_package():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^::: (\S+)$", text, re.MULTILINE)) == PUBLIC


def test_oldest_constraints_follow_the_project():
    done = subprocess.run([sys.executable, ROOT / ".ci" / "oldest.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for line in done.stdout.splitlines():
        name, _, bound = line.removesuffix(".*").partition("==")
        assert f'"{name}>={bound},<' in text
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the group docs")
def test_the_site_has_every_public_name(tmp_path):
    """Built from the tree as `make docs` does it; a warning is an error."""
    site = tmp_path / "site"
    make = ["make", "docs", "--assume-old=.venv/.installed", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(
        [*make, "STAMP=", f"ARGS=--site-dir {site}"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    entries = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    shown = {entry.partition(" ")[0] for entry in entries}
    wanted = {f"{package}.{name}" for package in PUBLIC for name in import_module(package).__all__}
    assert {name for name in wanted if not name.endswith(".__version__")} <= shown
