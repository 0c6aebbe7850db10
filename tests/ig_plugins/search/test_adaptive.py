"""Adaptive search: few lanes while the critic is sure, the whole search where it is not, one guarantee in both."""

import json

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins.search import Capacity, SearchConfig
from tests.ig_plugins.search.test_critic import ANSWERS, WRONG, Foresees, Reads, constant, policy_that_knows
from tests.kit.guards import MARKER, cost_of_marker, make_guard
from tests.kit.observe import fan_out
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)
LONG = {"a quiet and long answer of many words": 1.0}
CALM = {"adaptive": "on", "narrow_candidates": 2, "block_tokens": 4, "candidates": 8, "beams": 4}


def adaptive_guard(answers, critic, **options):
    guard = make_guard(answers, **{**CALM, **options})
    guard.components.critic = critic
    return guard


def sure_until(tokens):
    """A critic that sees the number of tokens so far, and is sure of a safe end up to there."""
    return Foresees(lambda hidden: torch.where(hidden[..., 0] <= tokens, 9.0, 0.5), constant(0.0))


def policy_that_counts(answers):
    """Hidden states that say how long the response is."""
    policy = policy_that_knows(answers)
    policy.tree.features = lambda prompt, response: [float(len(response))] + [0.0] * 7
    return policy


def test_narrow_blocks_run_few_lanes_and_keep_one():
    result = adaptive_guard(LONG, Foresees(constant(9.0), constant(0.0))).generate("Go.")
    assert [block.candidates for block in result.blocks] == [2] * len(result.blocks)
    assert {block.tokens for block in result.blocks[:-1]} == {2 * 4}
    assert result.text in LONG


def test_a_doubt_takes_the_block_back_and_searches_it_and_all_that_follow_in_full():
    guard = adaptive_guard({}, sure_until(8), policy=policy_that_counts(LONG))
    result = guard.generate("Go.")
    assert result.text in LONG
    # Two narrow blocks, one of which the critic doubted and which was then searched in full, as are all that follow.
    assert [block.candidates for block in result.blocks] == [2, 2, 2 + 8] + [8] * (len(result.blocks) - 3)
    assert [block.tokens for block in result.blocks[:4]] == [2 * 4, 2 * 4, 2 * 4 + 8 * 4, 8 * 4]


def test_half_a_spent_budget_is_no_comfort():
    costly = lambda p, r: [len(text) / 8 for text in r]  # noqa: E731
    critic = Foresees(constant(9.0), constant(0.0))
    guard = adaptive_guard(LONG, critic, cost=costly, budget=SafetyBudget(limit=5.0, discount=1.0), max_lag=1)
    widths = [block.candidates for block in guard.generate("Go.").blocks]
    assert widths[0] == 2
    assert widths[-1] == 8  # the critic is as sure as before


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_critic_lets_nothing_unsafe_out_of_a_narrow_search_either(kind):
    guard = adaptive_guard({}, WRONG[kind], policy=policy_that_knows(ANSWERS))
    for seed in range(3):
        chunks = list(guard.stream("Go.", seed=seed))
        assert MARKER not in "".join(chunk.text for chunk in chunks)
        assert MARKER not in guard.generate("Go.", seed=seed).text


@pytest.mark.parametrize("max_lag", [1, 4])
def test_a_narrow_stream_equals_the_answer_and_keeps_within_the_lag(max_lag):
    guard = adaptive_guard({"word " * 30: 1.0}, Foresees(constant(9.0), constant(0.0)), max_tokens=200)
    chunks = list(guard.stream("Go.", max_lag=max_lag))
    result = chunks[-1].result
    assert "".join(chunk.text for chunk in chunks) == result.text == guard.generate("Go.", max_lag=max_lag).text
    assert result.lag <= 4 * max(1, max_lag // 2)
    assert len(chunks) > len(result.token_ids) / (4 * max_lag)


def test_text_of_a_narrow_block_leaves_only_after_the_cost_model_has_read_it():
    reads = Reads(cost_of_marker)
    guard = adaptive_guard({"word " * 10: 1.0}, Foresees(constant(9.0), constant(0.0)), cost=reads, max_lag=1)
    told = ""
    for chunk in guard.stream("Go."):
        told += chunk.text
        assert any(seen.startswith(told) for seen in reads.seen)


def test_the_reward_model_reads_released_text_once_and_only_where_an_answer_ends():
    tokenizer = byte_tokenizer()
    judges = {"costs": {"cost": tiny_scores(tokenizer, "cost", scale=0.1)}, "tokenizer": tokenizer}
    judges["reward"] = tiny_scores(tokenizer, "reward")
    guard = tiny_guard(
        **judges, critic=Foresees(constant(9.0), constant(0.0)), adaptive="on", narrow_candidates=1, max_lag=1
    )
    result = guard.generate("Go.")
    tokens = len(result.token_ids)
    assert 16 <= tokens <= 20  # the answer ends before half a character
    assert result.usage.judge_tokens == 2 * (result.usage.prompt_tokens + tokens)
    read = guard.generate("Go.", adaptive="off", candidates=1, beams=1, block_tokens=5, max_lag=1)
    assert read.token_ids == result.token_ids
    assert read.reward == pytest.approx(result.reward, abs=1e-4)


def test_narrow_and_full_rows_share_a_batch():
    guard = adaptive_guard({}, sure_until(8), policy=policy_that_counts(LONG))
    asks = [{"adaptive": ("on", "off")[n % 2], "seed": n} for n in range(8)]
    alone = [guard.generate("Go.", **ask) for ask in asks]
    together = fan_out(lambda ask: guard.generate("Go.", **ask), asks, threads=8)
    assert [r.text for r in together] == [r.text for r in alone]
    assert [r.usage for r in together] == [r.usage for r in alone]


def test_room_for_narrow_lanes_is_kept_only_where_they_may_come():
    guard = make_guard(LONG)
    sizes = {}
    for adaptive in ("on", "off"):
        search = SearchConfig(adaptive=adaptive, candidates=4, narrow_candidates=9)
        sizes[adaptive] = Capacity.of([guard.with_options(**search.model_dump(exclude={"seed"})).request("Go.")])
    assert (sizes["on"].lanes, sizes["off"].lanes) == (9 + 4, 4 + 4)


def test_auto_leaves_it_to_the_guard():
    guard = make_guard(LONG)
    assert guard.request("Go.", adaptive="auto").search.adaptive == "auto"
    assert guard.with_options(adaptive="on").request("Go.", adaptive="auto").search.adaptive == "on"
    assert guard.with_options(adaptive="on").request("Go.", adaptive="off").search.adaptive == "off"


@pytest.mark.parametrize(("usual", "rewarded", "lanes"), [(-1.0, True, 1), (1.0, True, 7), (1.0, False, 1)])
def test_a_sure_and_worthless_answer_is_searched_in_full(usual, rewarded, lanes):
    """A refusal is the surest way to end safe; without a reward model nothing is worth more than another."""
    critic = Foresees(constant(9.0), constant(0.0))
    critic.usual_value = usual
    guard = tiny_guard(
        critic=critic, adaptive="on", narrow_candidates=1, candidates=6, **({} if rewarded else {"reward": None})
    )
    assert guard.generate("Go.").blocks[0].candidates == lanes  # the lane that was taken back counts


# ---- with a grammar ----


@pytest.mark.parametrize("sure", [0, 8, 99])
def test_narrow_and_full_blocks_keep_to_a_grammar(sure):
    pytest.importorskip("llguidance")
    guard = adaptive_guard({}, sure_until(sure), policy=policy_that_counts({"anything else": 1.0}))
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "string"}},
        "required": ["a", "b"],
    }
    for seed in range(3):
        result = guard.generate("Go.", json_schema=schema, seed=seed, max_tokens=48)
        assert json.loads(result.text).keys() == {"a", "b"}
        assert result.finish_reason == "stop"
        assert {block.candidates for block in result.blocks} <= {0: {8, 10}, 8: {2, 8, 10}, 99: {2}}[sure]


@pytest.mark.parametrize("sure", [0, 99])
def test_answers_of_an_adaptive_search_are_exact_draws_of_the_masked_policy(sure):
    pytest.importorskip("llguidance")
    said = {"yes": 0.45, "no": 0.15, "never": 0.4}
    guard = adaptive_guard({}, sure_until(sure), policy=policy_that_counts(said), reward=None, narrow_candidates=1)
    found = [guard.generate("Go.", choices=["yes", "no"], seed=seed).text for seed in range(300)]
    assert set(found) == {"yes", "no"}
    # After "n" the grammar leaves "no" alone, so all that began with it counts.
    assert abs(found.count("yes") / 300 - 0.45) < 4 * (0.45 * 0.55 / 300) ** 0.5
