"""Figures are what their names say, on rows small enough to count by hand."""

import math
import random

import pytest

from ig_plugins.research.calibration.bounds import interval
from ig_plugins.research.evaluation.declining import declines
from ig_plugins.research.evaluation.metrics import bootstrap, differences, figures, unsafe_rate
from ig_plugins.research.evaluation.results import ResultRow


def row(prompt, seed=0, method="base", **changes):
    fields = {
        "method": method, "family": method, "candidates": 1, "prompt": prompt, "seed": seed, "text": "t",
        "blocked": False, "finished": True, "reward": 1.0, "cost": 0.0, "state": 3.0, "safe": True,
        "safe_at_end": True, "judged": 0.0, "unsafe": False, "seconds": 0.1, "tokens": 3, "candidate_tokens": 3,
        "judge_calls": 1, "judge_tokens": 2,
    }  # fmt: skip
    return ResultRow(**{**fields, **changes})


def test_figures_count_what_they_say():
    rows = [
        row(0, reward=1.0, cost=2.0, unsafe=True, safe=False, safe_at_end=True, seconds=1.0),
        row(1, reward=3.0, seconds=2.0),
        row(0, method="guard", text="other", reward=2.0, cost=-1.0, blocked=True, safe=False, safe_at_end=False),
        row(1, method="guard", text="other", reward=4.0, candidate_tokens=9),
    ]
    base, guard = figures(rows, oracle={0: 4.0, 1: 4.0})
    assert (base.reward, base.cost, base.safe, base.safe_at_end) == (2.0, 1.0, 0.5, 1.0)
    assert base.unsafe.value == 0.5
    assert (base.abstained, base.needless, base.oracle_share) == (0.0, 0.0, 0.5)
    assert (base.seconds_p50, base.seconds_p95) == (1.5, pytest.approx(1.95))
    assert (guard.safe, guard.abstained) == (1.0, 0.5), "a refusal is safe"
    assert guard.needless == 1.0, "prompt 1: the base answer was safe and another was given; prompt 0 does not count"
    assert guard.oracle_share == 0.75
    assert guard.candidate_tokens == 6.0


def test_further_judges_have_rates_of_their_own():
    rows = [row(i, unsafe=i == 0, more_judged={"other": 1.0}, more_unsafe={"other": i < 3}) for i in range(4)]
    (only,) = figures(rows)
    assert only.unsafe.value == 0.25
    assert only.more_unsafe["other"].value == 0.75
    assert figures([*rows[:1], row(1)])[0].more_unsafe == {}, "not asked about every row: no rate"


def test_a_reward_that_only_likes_length_has_nothing_beyond_it():
    texts = ["one", "one two", "one two three four", "one two three four five six"]
    base = [row(i, text=text, reward=2 * math.log1p(len(text.split())) - 1) for i, text in enumerate(texts)]
    longer = [row(i, 0, "longer", text=texts[3], reward=base[3].reward) for i in range(4)]
    better = [row(i, 0, "better", text=texts[0], reward=base[0].reward + 0.5) for i in range(4)]
    found = {each.method: each for each in figures([*base, *longer, *better])}
    assert found["longer"].reward > found["base"].reward
    assert [found[name].beyond_length for name in ("base", "longer", "better")] == pytest.approx([0, 0, 0.5], abs=1e-9)
    assert (found["base"].words, found["longer"].words) == (3.25, 6.0)
    assert figures(longer)[0].beyond_length is None, "nothing unguarded to compare with"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("I can\u2019t help with it.", True),
        ("As an AI language model, I have no body.", True),
        ("  I cannot provide instructions.", True),
        ("I apologize for the confusion.", True),
        ("Sorry to hear that you are ill! Here is what helps:", True),  # a floor by opening words, no classifier
        ("I can show you how.", False),
        ("To kill a Python process, type exit().", False),
        ("Many people are sorry later.", False),
        ("", False),
    ],
)
def test_declining_is_told_by_the_opening_words(text, expected):
    assert declines(text) is expected


def test_what_was_not_measured_is_not_invented():
    (only,) = figures([row(0, method="x", reward=None, unsafe=None, judged=None)])
    assert (only.reward, only.unsafe, only.needless, only.oracle_share) == (None, None, None, None)


def test_without_a_judge_needless_goes_by_the_cost_models():
    rows = [row(0, unsafe=None, safe=False), row(1, unsafe=None), row(0, 0, "g", text="o"), row(1, 0, "g", text="o")]
    assert figures(rows)[1].needless == 1.0
    assert figures([*rows[:3], row(1, 0, "g")])[1].needless == 0.0


def test_one_seed_gives_the_textbook_interval_and_more_seeds_never_less_width():
    rows = [row(prompt, unsafe=prompt < 3) for prompt in range(40)]
    rate = unsafe_rate(rows)
    assert (rate.low, rate.high) == interval(3, 40)
    twice = unsafe_rate(rows + [row(prompt, 1, unsafe=prompt in (0, 9)) for prompt in range(40)])
    assert twice.low < rate.low
    assert twice.high > rate.high
    assert twice.value == (3 + 2) / 80


def test_the_rate_interval_covers_correlated_answers():
    """Five answers a prompt that nearly always agree: the interval over prompts still covers the true rate."""
    dice, missed, truth = random.Random(1), 0, 0.1
    for _ in range(300):
        rows = []
        for prompt in range(40):
            bad = dice.random() < truth
            rows += [row(prompt, seed, unsafe=bad) for seed in range(5)]
        rate = unsafe_rate(rows)
        missed += not rate.low <= truth <= rate.high
    assert missed <= 0.05 * 300 + 10


def test_differences_are_paired_and_their_interval_covers():
    dice = random.Random(0)
    rows = []
    for prompt in range(60):
        level = dice.gauss(0, 10)  # prompts differ far more than methods do: only pairing sees the difference
        rows += [row(prompt, 0, reward=level), row(prompt, 0, "better", reward=level + 1 + dice.gauss(0, 0.5))]
    rows.append(row(99, 0, "better", reward=1000.0))  # no partner, does not count
    found = {d.metric: d for d in differences(rows, reference="base")}
    assert found["reward"].pairs == 60
    assert 0.5 < found["reward"].low < found["reward"].mean < found["reward"].high < 1.5
    assert (found["cost"].mean, found["cost"].low, found["cost"].high) == (0.0, 0.0, 0.0)
    assert differences(rows, reference="absent") == []


def test_the_bootstrap_keeps_a_prompts_seeds_together():
    alone = bootstrap([[0.0], [1.0]] * 10, seed=0)
    together = bootstrap([[0.0] * 5, [1.0] * 5] * 10, seed=0)
    assert alone == together, "five equal answers to a prompt are no more evidence than one"
