"""The answers of a calibration on disk: its own are found again, those of another are refused."""

import pytest

from ig_plugins.errors import ConfigurationError, MismatchError
from ig_plugins.research.calibration.answers import AnswerLog, KeptAnswer

RUN = {"guard": {"policy": "a"}, "prompts": "ab12", "seed": 0}
ANSWERS = [KeptAnswer(limit=1.0, prompt=n, text=f"answer {n}", blocked=False, finished=True) for n in range(3)]


@pytest.fixture
def path(tmp_path):
    log = AnswerLog(tmp_path / "answers.jsonl", RUN)
    for answer in ANSWERS[:2]:
        log.add(answer)
    return log.path


def test_a_stopped_run_goes_on_where_it_was(path):
    log = AnswerLog(path, RUN)
    assert [log.get(1.0, n) for n in range(3)] == [*ANSWERS[:2], None]
    assert log.get(2.0, 0) is None, "under another limit it was not asked"
    log.add(ANSWERS[2])
    assert AnswerLog(path, RUN).get(1.0, 2) == ANSWERS[2]


@pytest.mark.parametrize("change", [{"guard": {"policy": "b"}}, {"prompts": "cd34"}, {"seed": 1}])
def test_answers_of_another_run_are_refused(path, change):
    before = path.read_bytes()
    with pytest.raises(MismatchError, match="answers of another calibration"):
        AnswerLog(path, {**RUN, **change})
    assert path.read_bytes() == before


def test_half_a_line_is_cut_off_and_a_broken_one_is_named(path):
    with path.open("a") as file:
        file.write('{"limit": 1.0, "pro')
    log = AnswerLog(path, RUN)
    assert log.get(1.0, 2) is None
    log.add(ANSWERS[2])
    assert AnswerLog(path, RUN).get(1.0, 2) == ANSWERS[2]
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(ConfigurationError, match="line 5: not an answer"):
        AnswerLog(path, RUN)
