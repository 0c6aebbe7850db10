import json

import pytest
from typer.testing import CliRunner

import ig_plugins.research.bench
from ig_plugins.cli import app
from ig_plugins.research.bench import Case, points

SMALL = ["--prompt", "8", "--candidates", "2", "--new", "4", "--block", "2", "--repeats", "1"]


def invoke(*arguments):
    result = CliRunner().invoke(app(), ["bench", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_says_what_was_compared():
    shown = " ".join(invoke(*SMALL).split())
    assert "4 new tokens in blocks of 2" in shown
    assert "GFLOP in the tree" in shown


def test_json_holds_every_run():
    found = json.loads(invoke(*SMALL, "--json"))[0]
    assert found["case"]["prompt"] == 8
    assert len(found["seconds"]["generate_n"]["runs"]["cpu"]) == 1


@pytest.fixture
def small_models(monkeypatch):
    """Cases of the same names on a model that takes no time."""
    monkeypatch.setattr(
        ig_plugins.research.bench, "Case", lambda **sizes: Case(**sizes, layers=1, width=64, vocabulary=97)
    )
    monkeypatch.setattr(points, "CURVES", {"new": (2, 4)})
    monkeypatch.setattr(points, "run_tuned", points.run)  # a process of its own is tried elsewhere


def test_a_full_run_keeps_points_and_pictures(small_models, tmp_path):
    shown = " ".join(invoke(*SMALL, "--full", "--out", str(tmp_path)).split())
    assert "prompt 32, N 2" in shown
    names = {file.name for file in tmp_path.iterdir()}
    assert {"target-prompt-8.json", "tuned-candidates-8.json", "new-4.json", "bench_curves.png"} <= names
