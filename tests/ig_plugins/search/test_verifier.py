"""The release rule by itself, and that each search keeps to it."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from critic_models.errors import JudgeError
from critic_models.safety import SafetyBudget
from ig_plugins.search import Border, Row, Step, Trail, may_leave
from ig_plugins.search.scoring.direct import lanes_pass
from ig_plugins.search.scoring.judge_session import Scores
from ig_plugins.search.verifier import Scored, Track, costs_of
from tests.ig_plugins.search.test_critic import Foresees, constant, with_critic
from tests.kit.guards import make_guard

READINGS = ("any_time", "terminal")
ACCOUNTINGS = ("cumulative", "worst")
scores = st.lists(st.floats(-3, 3), min_size=0, max_size=8)
budgets = st.builds(
    SafetyBudget,
    limit=st.floats(0.1, 5),
    discount=st.sampled_from([1.0, 0.9, 0.5]),
    accounting=st.sampled_from(ACCOUNTINGS),
    reading=st.sampled_from(READINGS),
)


def follow(values, budget):
    """z, written out: the start, and after each cost."""
    z = budget.limit if budget.accounting == "cumulative" else math.inf
    states = [z]
    for cost in values:
        z = (z - cost) / budget.discount if budget.accounting == "cumulative" else min(z, budget.limit - cost)
        states.append(z)
    return states


def rule(states, budget):
    """The rule, written out."""
    safe = [z > 0 if budget.accounting == "cumulative" else z >= 0 for z in states]
    return all(safe) if budget.reading == "any_time" else safe[-1]


@given(values=scores, budget=budgets)
def test_the_rule_is_the_papers(values, budget):
    states = torch.tensor(follow(values, budget), dtype=torch.float64)
    assert bool(may_leave(states, budget)) == rule(states.tolist(), budget)


@given(values=scores, budget=budgets, behind=st.lists(st.floats(-9, 9), max_size=4))
def test_what_was_not_read_does_not_count(values, budget, behind):
    states = torch.tensor([*follow(values, budget), *behind], dtype=torch.float64)
    read = torch.arange(len(states)) <= len(values)
    assert bool(may_leave(states, budget, read=read)) == rule(states[: len(values) + 1].tolist(), budget)


@pytest.mark.parametrize("accounting", ACCOUNTINGS)
@pytest.mark.parametrize(
    ("states", "read", "any_time", "terminal"),
    [
        ([1.0, -1.0, 1.0], 3, False, True),
        ([1.0, 1.0, -1.0], 3, False, False),
        ([1.0, 1.0, -1.0], 2, True, True),
        ([-1.0, 1.0, 1.0], 3, False, True),
        ([-1.0, 1.0, 1.0], 1, False, False),
        ([1.0, -1.0, -1.0], 1, True, True),
    ],
)
def test_readings_by_hand(states, read, any_time, terminal, accounting):
    states, mask = torch.tensor(states, dtype=torch.float64), torch.arange(3) < read
    for reading, wanted in (("any_time", any_time), ("terminal", terminal)):
        budget = SafetyBudget(limit=1.0, accounting=accounting, reading=reading)
        assert bool(may_leave(states, budget, read=mask)) == wanted
        assert bool(may_leave(states[:read], budget)) == wanted
        assert may_leave(torch.stack([states] * 2), budget, read=torch.stack([mask] * 2)).tolist() == [wanted] * 2


def test_zero_is_spent_where_cost_accumulates_and_allowed_where_the_worst_counts():
    zero = torch.zeros(1, dtype=torch.float64)
    assert not may_leave(zero, SafetyBudget(limit=1.0))
    assert may_leave(zero, SafetyBudget(limit=1.0, accounting="worst"))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("accounting", ACCOUNTINGS)
def test_nan_never_leaves(accounting, reading):
    budget = SafetyBudget(limit=1.0, accounting=accounting, reading=reading)
    assert not may_leave(torch.tensor([1.0, math.nan], dtype=torch.float64), budget)


@given(parts=st.lists(scores, min_size=1, max_size=4), budget=budgets)
def test_a_trail_in_pieces_is_the_trail_in_one(parts, budget):
    trail, at = Trail.start([budget]), 0
    for part in parts:
        ends = tuple(range(at + 1, at + len(part) + 1))
        trail = trail.extended([Scored(torch.tensor(part, dtype=torch.float64), ends, whole=False)])
        at += len(part)
    values = [value for part in parts for value in part]
    assert trail.tracks[0].states.tolist() == pytest.approx(follow(values, budget))
    assert trail.may_leave() == rule(trail.tracks[0].states.tolist(), budget)
    assert trail.up_to(2).tracks[0].states.tolist() == trail.tracks[0].states.tolist()[:3]


@given(values=scores, limit=st.floats(0.1, 5))
def test_scores_of_whole_texts_add_up_to_the_last_one(values, limit):
    budget = SafetyBudget(limit=limit, discount=1.0)
    found = Scored(torch.tensor(values, dtype=torch.float64), tuple(range(1, len(values) + 1)), whole=True)
    track = Track.start(budget).extended(found, budget)
    assert track.state == pytest.approx(limit - (values[-1] if values else 0.0))


def test_scores_of_whole_texts_in_pieces_go_on_from_the_last_one():
    budget, trail = SafetyBudget(limit=9.0, discount=1.0), Trail.start([SafetyBudget(limit=9.0, discount=1.0)])
    for at, score in enumerate((3.0, 5.0, 4.0), start=1):
        trail = trail.extended([Scored(torch.tensor([score], dtype=torch.float64), (at,), whole=True)])
        assert trail.state == (budget.limit - score,)


def test_costs_of_whole_texts_are_what_each_adds():
    cumulative, worst = SafetyBudget(limit=9.0), SafetyBudget(limit=9.0, accounting="worst")
    told, before = torch.tensor([2.0, 5.0, 4.0], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    assert costs_of(told, before, cumulative, whole=True).tolist() == [1.0, 3.0, -1.0]
    assert costs_of(told, before, cumulative, whole=False).tolist() == told.tolist()
    assert costs_of(told, before, worst, whole=True).tolist() == told.tolist()


def test_scores_that_cannot_be_added_up_are_an_error():
    budget = SafetyBudget(limit=1.0)
    huge = Scored(torch.tensor([-1e308, -1e308], dtype=torch.float64), (1, 2), whole=False)
    with pytest.raises(JudgeError, match="too large"):
        Trail.start([budget]).extended([huge])


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("reading", READINGS)
def test_a_search_reads_any_time_and_terminal_apart(critic, reading):
    """'Bad, then good.' is unsafe in the middle and safe at its end."""
    cost = lambda p, r: [1.0 if 3 <= len(text) < 9 else -1.0 for text in r]  # noqa: E731
    budget = SafetyBudget(limit=0.5, accounting="cumulative", reading=reading, discount=1.0)
    guard = make_guard({"Bad, then good.": 1.0}, cost=cost, budget=budget, block_tokens=4, candidates=2, beams=1)
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    result = guard.generate("Go.")
    streamed = "".join(chunk.text for chunk in guard.stream("Go."))
    if reading == "any_time":
        assert result.blocked
        assert "Bad" not in streamed
    else:  # in a stream, each part must be fit to be the last one
        assert result.blocked or result.safety_state > 0


@pytest.mark.parametrize("critic", [False, True])
def test_a_prefill_over_budget_is_not_made_good_by_what_follows(critic):
    prompt = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Bad"}]
    cost = lambda p, r: [5.0 if text == "Bad" else -9.0 for text in r]  # noqa: E731
    budget = SafetyBudget(limit=1.0, discount=1.0)
    guard = make_guard({" and then good.": 1.0}, cost=cost, budget=budget, last_assistant="prefill")
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    assert guard.generate(prompt).blocked
    assert not guard.generate(prompt, budget=SafetyBudget(limit=1.0, discount=1.0, reading="terminal")).blocked


@pytest.mark.parametrize(("before", "cost", "passes"), [(1.0, -5.0, True), (-1.0, -5.0, False), (0.5, 0.7, False)])
def test_lanes_that_start_where_their_beam_stands(before, cost, passes):
    """By themselves, whatever looks at the whole trail later."""
    budget = SafetyBudget(limit=1.0, discount=1.0)
    request = make_guard({"a": 1.0}).request("Go.", budget=budget)
    told = torch.tensor([1.0 - before], dtype=torch.float64)
    beam = Step(trail=Trail.start([budget]).extended([Scored(told, (0,), whole=False)]))
    row = Row(request, beams=[beam], released=Border(beam, 0, "", beam.trail))
    lanes = SimpleNamespace(rows=[row], parents=torch.zeros(1, 1, dtype=torch.long), lengths=torch.ones(1, 1))
    found = Scores(torch.full((1, 1, 1), cost, dtype=torch.float64), torch.ones(1, 1, dtype=torch.long))
    assert bool(lanes_pass(lanes, 0, found, whole=False)) == passes


def test_every_cost_model_has_to_pass():
    budgets = [SafetyBudget(limit=1.0, discount=1.0), SafetyBudget(limit=1.0, accounting="worst")]
    one, nine = (torch.tensor([each], dtype=torch.float64) for each in (0.5, 9.0))
    for first, second in ((one, nine), (nine, one)):
        trail = Trail.start(budgets).extended([Scored(first, (1,), whole=True), Scored(second, (1,), whole=True)])
        assert not trail.may_leave()
        assert [trail.may_leave(cost) for cost in (0, 1)] == [first is one, second is one]
