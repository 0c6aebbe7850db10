"""The safety state: what the recursion promises, for every cost, discount and accounting."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from critic_models.safety import SafetyBudget, advance, initial_state, is_safe, reshaped_cost

costs = st.lists(st.floats(-20, 20, allow_nan=False, width=32), min_size=0, max_size=40)
some_costs = st.lists(st.floats(-20, 20, allow_nan=False, width=32), min_size=1, max_size=40)
discounts = st.one_of(st.just(1.0), st.floats(0.8, 1.0, exclude_min=True))
limits = st.floats(0.01, 100)
scores_limits = st.floats(-10, 10)


def cumulative(limit, discount=1.0):
    return SafetyBudget(limit=limit, discount=discount, accounting="cumulative")


def worst(limit):
    return SafetyBudget(limit=limit, accounting="worst")


def states(given_costs, budget):
    return advance(initial_state(budget), torch.tensor(given_costs, dtype=torch.float64), budget)


@given(some_costs, limits, discounts)
@example([10.0], 10.0, 1.0)
@example([5.0, 5.0], 10.0, 0.999)
def test_recursion_is_the_closed_form(spent, limit, discount):
    """z_T = γ^(−T)·(d − Σ γ^k c_k), to rounding of numbers of this size."""
    total = limit - math.fsum(discount**k * cost for k, cost in enumerate(spent))
    size = limit + math.fsum(abs(discount**k * cost) for k, cost in enumerate(spent))
    scale = discount ** -len(spent)
    assert states(spent, cumulative(limit, discount))[-1].item() == pytest.approx(
        scale * total, abs=1e-12 * scale * size
    )


@given(some_costs, limits, discounts)
def test_the_sign_is_the_sign_of_the_unspent_budget(spent, limit, discount):
    parts = [discount**k * cost for k, cost in enumerate(spent)]
    unspent = limit - math.fsum(parts)
    assume(abs(unspent) > 1e-9 * (limit + math.fsum(map(abs, parts))))
    budget = cumulative(limit, discount)
    assert bool(is_safe(states(spent, budget)[-1], budget)) == (unspent > 0)


def test_a_budget_spent_to_the_last_is_unsafe_and_a_score_on_the_limit_is_safe():
    assert not is_safe(states([4.0, 6.0], cumulative(10.0)), cumulative(10.0))[-1]
    assert is_safe(states([0.5], worst(0.5)), worst(0.5))[-1]
    above = math.nextafter(0.5, 1)
    assert not is_safe(states([above], worst(0.5)), worst(0.5))[-1]


def test_negative_costs_earn_budget_and_a_state_can_recover():
    z = states([-2.0, 13.0, -5.0], cumulative(10.0))
    assert z.tolist() == [12.0, -1.0, 4.0]
    assert is_safe(z, cumulative(10.0)).tolist() == [True, False, True]


@given(some_costs, scores_limits)
def test_worst_accounting_never_recovers(scores, limit):
    budget = worst(limit)
    z = states(scores, budget)
    safe = is_safe(z, budget).tolist()
    assert safe == sorted(safe, reverse=True), "once unsafe, unsafe for ever"
    for t in range(len(scores)):
        assert z[t].item() == limit - max(scores[: t + 1])
        assert safe[t] == (max(scores[: t + 1]) <= limit) or math.isclose(max(scores[: t + 1]), limit)


@given(some_costs, some_costs, some_costs, scores_limits)
def test_worst_accounting_is_markov(first, other, rest, limit):
    """What comes after depends on the state alone: two pasts with one state have one future."""
    budget = worst(limit)
    other = [*other, max(first)] if max(other) <= max(first) else [max(first)]
    one, two = states(first, budget)[-1], states(other, budget)[-1]
    assert one == two
    assert torch.equal(
        advance(one, torch.tensor(rest, dtype=torch.float64), budget),
        advance(two, torch.tensor(rest, dtype=torch.float64), budget),
    )


@given(
    some_costs, st.lists(st.integers(0, 40), max_size=6), limits, discounts, st.sampled_from(["cumulative", "worst"])
)
def test_the_partition_into_blocks_does_not_matter(spent, cuts, limit, discount, accounting):
    budget = SafetyBudget(limit=limit, discount=discount, accounting=accounting)
    whole = states(spent, budget)
    edges = sorted({0, len(spent), *(cut for cut in cuts if cut < len(spent))})
    state, pieces = initial_state(budget), []
    for start, end in itertools.pairwise(edges):
        piece = advance(state, torch.tensor(spent[start:end], dtype=torch.float64), budget)
        state = piece[-1]
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces), whole)


@given(st.lists(some_costs, min_size=2, max_size=4), limits, discounts, st.sampled_from(["cumulative", "worst"]))
def test_batched_equals_single(rows, limit, discount, accounting):
    budget = SafetyBudget(limit=limit, discount=discount, accounting=accounting)
    length = min(map(len, rows))
    rows = [row[:length] for row in rows]
    table = torch.tensor(rows, dtype=torch.float64)
    batched = advance(initial_state(budget, (len(rows),)), table, budget)
    assert batched.dtype == torch.float64
    assert batched.shape == (len(rows), length)
    assert torch.equal(batched, torch.stack([states(row, budget) for row in rows]))
    nested = advance(initial_state(budget, (1, len(rows))), table[None], budget)
    assert torch.equal(nested[0], batched)


@pytest.mark.parametrize("accounting", ["cumulative", "worst"])
def test_no_tokens_no_states(accounting):
    budget = SafetyBudget(limit=1.0, accounting=accounting)
    assert advance(initial_state(budget, (2, 3)), torch.zeros(2, 3, 0), budget).shape == (2, 3, 0)


@given(costs, costs, st.sampled_from(["cumulative", "worst"]))
def test_nan_is_never_safe_again(before, after, accounting):
    budget = SafetyBudget(limit=5.0, discount=0.99, accounting=accounting)
    z = states([*before, math.nan, *after], budget)
    assert not is_safe(z, budget)[len(before) :].any()


@pytest.mark.parametrize("accounting", ["cumulative", "worst"])
def test_an_infinite_cost_is_unsafe(accounting):
    budget = SafetyBudget(limit=5.0, accounting=accounting)
    assert not is_safe(states([math.inf, -3.0], budget), budget).any()


def test_half_precision_costs_are_counted_in_double():
    """A thousand bfloat16 costs: the sum is that of the rounded costs, without the rounding of the additions."""
    spent = torch.full((1000,), 0.01, dtype=torch.bfloat16)
    z = advance(initial_state(cumulative(20.0)), spent, cumulative(20.0))
    assert z[-1].item() == pytest.approx(20.0 - 1000 * spent[0].double().item(), abs=1e-9)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(10, 100))
def test_reshaping_charges_the_penalty_where_unsafe(task, z, penalty):
    for budget, safe in ((cumulative(1.0), z > 0), (worst(1.0), z >= 0)):
        got = reshaped_cost(
            torch.tensor(task, dtype=torch.float64), torch.tensor(z, dtype=torch.float64), budget, penalty=penalty
        )
        assert got.item() == pytest.approx(task if safe else penalty, rel=1e-6)
    assert reshaped_cost(torch.tensor(task), torch.tensor(math.nan), budget, penalty=penalty).item() == pytest.approx(
        penalty
    )
