"""Results survive interruption, and nothing half-written is mistaken for one."""

import pytest

from ig_plugins.errors import ConfigurationError, MismatchError
from ig_plugins.research.evaluation.results import Key, ResultRow, ResultStore

RUN = {"model": "m", "prompts": "abc"}


def row(prompt=0, seed=0, method="base", **changes):
    fields = {
        "method": method, "family": method, "candidates": 1, "prompt": prompt, "seed": seed, "text": "t\n\u2028é",
        "blocked": False, "finished": True, "reward": 1.5, "cost": -0.25, "state": 3.0, "safe": True,
        "safe_at_end": True, "judged": 0.0, "unsafe": False, "seconds": 0.1, "tokens": 3, "candidate_tokens": 3,
        "judge_calls": 0, "judge_tokens": 0,
    }  # fmt: skip
    return ResultRow(**{**fields, **changes})


def test_what_is_added_is_there_after_reopening(tmp_path):
    ResultStore(tmp_path, RUN).add([row(0), row(1)])
    store = ResultStore(tmp_path, RUN)
    store.add([row(2, method="bon")])
    again = ResultStore(tmp_path, RUN)
    assert again.rows == [row(0), row(1), row(2, method="bon")]
    assert Key("bon", 2, 0) in again
    assert Key("bon", 1, 0) not in again


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_half_written_last_line_is_dropped_and_answered_again(tmp_path, lost):
    ResultStore(tmp_path, RUN).add([row(0), row(1)])
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-lost])
    store = ResultStore(tmp_path, RUN)
    assert store.rows == [row(0)]
    store.add([row(1)])
    assert ResultStore(tmp_path, RUN).rows == [row(0), row(1)]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    ResultStore(tmp_path, RUN).add([row(0), row(1)])
    path = tmp_path / "results.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0][:20], *lines[1:]]))
    with pytest.raises(ConfigurationError, match="line 1: not a result"):
        ResultStore(tmp_path, RUN)


def test_another_run_is_refused(tmp_path):
    ResultStore(tmp_path, RUN).add([row(0)])
    with pytest.raises(MismatchError, match="different: prompts"):
        ResultStore(tmp_path, {**RUN, "prompts": "other"})
    (tmp_path / "run.json").unlink()
    with pytest.raises(MismatchError, match=r"without its run.json"):
        ResultStore(tmp_path, RUN)
