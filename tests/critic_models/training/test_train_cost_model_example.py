"""The example runs from the user's files to a checkpoint that is a judge; how good it gets is an experiment."""

import gzip
import json
import runpy
from pathlib import Path

import pytest

from critic_models.judges import load_judge

SCRIPT = Path(__file__).parents[3] / "examples" / "train_cost_model.py"


@pytest.fixture
def data(tmp_path):
    kind, rude = "you are right", "you are a fool"
    rows = [
        {"context": f"I like number {index}", "response": rude if index % 3 == 0 else kind, "category": "x",
         "label": "Unsafe" if index % 3 == 0 else "Safe"}
        for index in range(30)
    ]  # fmt: skip
    (tmp_path / "diasafety_train.json").write_text(json.dumps(rows))
    (tmp_path / "diasafety_val.json").write_text(json.dumps(rows[:6]))
    with gzip.open(tmp_path / "hh_rlhf_harmless_base_test.jsonl.gz", "wt") as lines:
        for index in range(8):
            start = f"\n\nHuman: hello {index}\n\nAssistant: "
            lines.write(json.dumps({"chosen": start + kind, "rejected": start + rude}) + "\n")
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.slow
def test_it_prints_both_figures_and_saves_a_judge(data, monkeypatch, capsys):
    run(monkeypatch, data, "--steps", 2, 2, 12, "--out", data / "cost")
    out = capsys.readouterr().out
    assert "trained on 30 labels and 8 pairs" in out
    assert "AUC on 6 held-out dialogues: cost model 1.000, TF-IDF and logistic regression 1.000" in out
    cost = load_judge(data / "cost", kind="cost")
    rude, kind = cost.score(["I like tea"] * 2, ["you are a fool", "you are right"], finished=[True, True])
    assert rude > kind


def test_missing_files_are_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, tmp_path)
    assert exit_.value.code == 2
    assert "lacks diasafety_train.json" in capsys.readouterr().err


def test_pairs_are_dialogues_that_differ_in_the_last_turn_only(data):
    pairs = list(runpy.run_path(str(SCRIPT))["read_pairs"](data / "hh_rlhf_harmless_base_test.jsonl.gz"))
    assert pairs[0] == ("hello 0", "you are right", "you are a fool")
    assert len(pairs) == 8
