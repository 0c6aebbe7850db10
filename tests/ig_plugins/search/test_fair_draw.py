"""Without a reward model an answer is a fair draw from the policy, given that it is safe."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ig_plugins.search.fair_draw import resample
from tests.ig_plugins.search.test_critic import Foresees, constant, with_critic
from tests.kit.guards import MARKER, make_guard

ANSWERS = {"": 0.05, "Ok.": 0.25, "A middling answer.": 0.3, "A long answer that goes on for several blocks.": 0.4}
DRAWS = 200


def drawn(guard, draws=DRAWS, **options):
    results = [guard.generate("Go.", seed=seed, **options) for seed in range(draws)]
    assert not any(result.blocked for result in results)
    return Counter(result.text for result in results)


def distance(found, wanted):
    """Total variation between frequencies and probabilities."""
    total = sum(found.values())
    return sum(abs(found[text] / total - share) for text, share in wanted.items()) / 2


@pytest.mark.parametrize(
    "search", [{"candidates": 1, "beams": 1}, {"candidates": 8, "beams": 2}, {"candidates": 6, "beams": 6}]
)
def test_where_all_is_safe_answers_come_as_often_as_the_policy_gives_them(search):
    found = drawn(make_guard(ANSWERS, reward=None, **search))
    assert set(found) <= set(ANSWERS)
    assert distance(found, ANSWERS) < 0.09  # four cells of 200 draws: 0.05 is usual


def test_a_hedged_draw_is_from_the_answers_that_leave_most_of_the_budget():
    """Each costs what its length says; with eight particles nearly all answers are among them."""
    cost = lambda p, r: [len(text) - 60.0 for text in r]  # noqa: E731
    guard = make_guard(ANSWERS, reward=None, candidates=16, beams=8, block_tokens=24, cost=cost)
    plain, calm = drawn(guard, 60), drawn(guard, 60, selection="hedged")
    assert len(plain) == len(ANSWERS)
    assert max(plain, key=len) not in calm
    assert calm["Ok."] > 30 > plain["Ok."]
    assert calm["Ok."] > calm[""] > 0, "of the half each by its share"


def test_a_hedged_draw_of_equals_is_a_fair_one():
    found = drawn(make_guard(ANSWERS, reward=None, candidates=8, beams=2, block_tokens=24), 150, selection="hedged")
    assert distance(found, ANSWERS) < 0.12


@pytest.mark.parametrize("critic", [False, True])
def test_safe_answers_keep_their_shares_where_others_are_unsafe(critic):
    safe = {"Ok.": 0.2, "A longer answer than that one.": 0.3}
    guard = make_guard(
        safe | {f"{MARKER} at once": 0.3, f"Harm comes late {MARKER}": 0.2}, reward=None, candidates=16, beams=8
    )
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    found = drawn(guard)
    assert set(found) == set(safe)
    assert distance(found, {text: share / 0.5 for text, share in safe.items()}) < 0.11


@pytest.mark.parametrize("max_lag", [0, 1])
def test_settling_early_for_a_stream_stays_fair(max_lag):
    found = drawn(make_guard(ANSWERS, reward=None, candidates=8, beams=4), max_lag=max_lag)
    assert distance(found, ANSWERS) < 0.09


def test_a_stream_is_the_same_draw():
    guard = make_guard(ANSWERS, reward=None)
    for seed in range(20):
        chunks = list(guard.stream("Go.", seed=seed, max_lag=1))
        assert "".join(chunk.text for chunk in chunks) == guard.generate("Go.", seed=seed, max_lag=1).text


@settings(deadline=None)
@given(weights=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12), count=st.integers(1, 12))
def test_resampling_keeps_every_weight_in_expectation(weights, count):
    grid = 500
    mean = [0.0] * len(weights)
    for place in range(grid):
        particles = resample(weights, count, uniform=(place + 0.5) / grid)
        assert len(particles) <= count
        assert len({index for index, _ in particles}) == len(particles)
        for index, weight in particles:
            assert weight >= weights[index] * (1 - 1e-9)
            mean[index] += weight / grid
    assert mean == pytest.approx(weights, abs=2 * sum(weights) / grid)
