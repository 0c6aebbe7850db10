"""An independent judge by every kind of name."""

import pytest

from critic_models.judges.heads import TextHead
from ig_plugins.errors import ModelLoadError
from ig_plugins.research.evaluation.verdicts import Verdicts


def test_a_shipped_head_judges_by_its_own_threshold():
    verdicts = Verdicts.load("bundled:chat-cost-words")
    assert isinstance(verdicts.judge, TextHead)
    assert verdicts.judge.name == "bundled:chat-cost-words"
    assert 0 < verdicts.limit == verdicts.judge.config.threshold < 1
    assert Verdicts.load("bundled:chat-cost-words", limit=0.9).limit == 0.9


def test_a_function_in_a_file_judges(tmp_path):
    (tmp_path / "rules.py").write_text("def long(prompts, responses):\n    return [len(r) - 5 for r in responses]\n")
    verdicts = Verdicts.load(f"{tmp_path / 'rules.py'}:long")
    scores = verdicts.scores(["p", "p"], ["short", "longer"], finished=[True, True])
    assert [verdicts.unsafe(score) for score in scores] == [False, True]


def test_a_reward_head_judges_no_safety():
    with pytest.raises(ModelLoadError, match="is a reward head"):
        Verdicts.load("bundled:chat-reward")
