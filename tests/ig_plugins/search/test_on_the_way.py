"""What the judges said on the way to an answer counts in it: in what may leave, and in what the result says it cost."""

import json

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins.search import Trail
from ig_plugins.search.verifier import Scored
from ig_plugins.server.forms import headers
from tests.ig_plugins.search.test_critic import Foresees, constant, with_critic
from tests.ig_plugins.search.test_exactly_what_leaves import TOOL, Judge, shown
from tests.kit.guards import make_guard
from tests.kit.no_grammar import no_grammar  # noqa: F401
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)


def guarded(answers, *, critic=False, **options):
    guard = make_guard(answers, **options)
    return with_critic(guard, Foresees(constant(9.0), constant(0.0))) if critic else guard


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("stop", [[], [" STOP"]])
def test_a_prefill_over_budget_is_not_made_good_by_a_stop_string(critic, stop):
    judge = Judge(lambda text: text == "Sure, ")
    guard = guarded({"do it now STOP and more": 1.0}, critic=critic, cost=judge, chat=True, block_tokens=40)
    asked = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Sure, "}]
    assert guard.generate(asked, last_assistant="prefill", stop=stop).blocked


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("answer", ["Sure, do it now", "Sure, do it now STOP and more"])
def test_the_worst_score_counts_what_a_stream_has_shown_before_a_stop_string(critic, answer):
    cost = lambda p, r: [-0.1 if text == "Sure, do" else -5.0 for text in r]  # noqa: E731
    guard = guarded({answer: 1.0}, critic=critic, cost=cost, max_lag=0, stop=[" STOP"])
    texts, result = shown(guard)
    assert texts[0] == "Sure, do"
    assert (result.cost, result.safety_state) == (-0.1, 0.1)
    assert [block.safety_state for block in result.blocks] == [0.1] * len(result.blocks)


@pytest.mark.parametrize("critic", [False, True])
def test_the_worst_score_counts_what_a_stream_has_shown_within_a_block(critic):
    cost = lambda p, r: [-0.1 if text == "Aaa. " else -5.0 for text in r]  # noqa: E731
    guard = guarded({"Aaa. bbb ccc ddd eee": 1.0}, critic=critic, cost=cost, max_lag=0, stop=["bbbX"])
    texts, result = shown(guard)
    assert texts[0] == "Aaa. "
    assert (result.cost, result.safety_state) == (-0.1, 0.1)


def test_a_cut_answer_of_fewer_tokens_than_have_left_keeps_its_own_score():
    """What a stop string leaves is encoded anew, perhaps into fewer tokens than were sampled."""
    texts, tokens = SafetyBudget(limit=0.0, accounting="worst"), SafetyBudget(limit=5.0, discount=1.0)
    way = Trail.start([texts, tokens]).extended([scored(-3, at=4, whole=True), scored(1, 1, 1, 1, at=4)])
    cut = way.cut([scored(-1, at=2, whole=True), scored(1, 2, at=2)], kept=3, end=6)
    assert [track.ends for track in cut.tracks] == [(6,), (1, 2)]
    border = way.up_to(3).extended([scored(-2, at=3, whole=True), scored(at=3)])
    left = cut.behind(border, 3)
    assert (left.spent(), left.state) == ([-1.0, 3.0], (1.0, 2.0))


def scored(*scores, at, whole=False):
    ends = tuple(range(at - len(scores) + 1, at + 1))
    return Scored(torch.tensor(scores, dtype=torch.float64), ends, whole=whole)


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("critic", [False, True])
def test_the_worst_score_counts_words_that_leave_without_their_call(critic):
    cost = lambda p, r: [-5.0 if "run" in text else -0.1 for text in r]  # noqa: E731
    answer = 'I will help.\n<tool_call>\n{"name": "run", "arguments": {"command": "ls"}}\n</tool_call>'
    options = {"chat": True, "tools": [TOOL], "max_tokens": 120, "block_tokens": 120}
    result = guarded({answer: 1.0}, critic=critic, cost=cost, **options).generate("Go.")
    assert (result.text, len(result.tool_calls)) == ("I will help.", 1)
    assert (result.cost, result.safety_state) == (-0.1, 0.1)
    assert result.blocks[-1].cost == -0.1


@pytest.mark.parametrize("reward", [None, lambda p, r: [float(len(text)) for text in r]])
def test_a_text_that_was_refused_does_not_leave_after_a_new_beginning(reward):
    """A judge may pass a whole answer and refuse its beginning; that is known though the search began anew."""
    judge, refused = Judge(lambda text: text == "Aaaa"), 0
    answers = {"Aaaa ok.": 0.5, "Aaaa no.": 0.3, "Bbbb is.": 0.2}
    options = {"block_tokens": 4, "candidates": 2, "beams": 2, "tries": 3, "reward": reward}
    guard = guarded(answers, critic=True, cost=judge, **options)
    for seed in range(30):
        judge.refused.clear()
        result = guard.generate("Go.", seed=seed)
        refused += "Aaaa" in judge.refused and not result.blocked
        assert result.blocked or not result.text.startswith(tuple(judge.refused))
        assert "Aaaa" not in "".join(shown(guard, seed=seed)[0]) or "Aaaa" not in judge.refused
    assert refused


def test_an_answer_of_nothing_has_no_highest_score():
    """Judges of tokens have nothing to read of it; its report is JSON all the same."""
    costs = {"cost": tiny_scores(byte_tokenizer(), "cost", scale=0.2)}
    budgets = [SafetyBudget(limit=50.0, accounting="worst")]
    guard = tiny_guard(costs=costs, budgets=budgets, reward=None, search={"candidates": 1, "beams": 1})
    result = guard.generate("Go.", stop=[guard.generate("Go.").text[0]])
    assert (result.text, result.blocked) == ("", False)
    assert (result.cost, result.costs, result.safety_state) == (None, {}, None)
    assert json.loads(json.dumps(result.report(), allow_nan=False))["cost"] is None
    assert "x-inference-guard-cost" not in headers([result])
