import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critic_models.errors import ConfigurationError
from critic_models.training.rollouts import Ledger, RolloutData


def rollouts(costs):
    """Rollouts of given token costs, one list a response."""
    response = torch.cat([torch.full((len(row),), index) for index, row in enumerate(costs)])
    return RolloutData(
        features=torch.zeros(len(response), 2),
        response=response,
        position=torch.cat([torch.arange(len(row)) for row in costs]),
        costs=torch.tensor([cost for row in costs for cost in row], dtype=torch.float64).unsqueeze(1),
        reward=torch.zeros(len(costs)),
        prompt=torch.arange(len(costs)),
    )


def follow(row, limit, *, accounting, discount):
    """The paper's recursion, one step at a time."""
    z = limit if accounting == "cumulative" else math.inf
    states = [z]
    for cost in row:
        z = (z - cost) / discount if accounting == "cumulative" else min(z, limit - cost)
        states.append(z)
    return states


COSTS = st.lists(st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=1, max_size=7), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    costs=COSTS,
    limit=st.floats(0.1, 5),
    accounting=st.sampled_from(["cumulative", "worst"]),
    discount=st.sampled_from([1.0, 0.999, 0.8]),
    terminal=st.booleans(),
)
def test_states_and_safety_equal_the_recursion(costs, limit, accounting, discount, terminal):
    ledger = Ledger(rollouts(costs), 0, accounting=accounting, discount=discount, terminal=terminal)
    for index, row in enumerate(costs):
        states = follow(row, limit, accounting=accounting, discount=discount)
        many, limits = torch.full((len(states),), index), torch.full((len(states),), limit, dtype=torch.float64)
        got = ledger.state(many, torch.arange(len(states)), limits)
        torch.testing.assert_close(got, torch.tensor(states, dtype=torch.float64), atol=1e-9, rtol=1e-9)
        checked = states[-1:] if terminal else states[1:]
        if min(abs(z) for z in checked) < 1e-9 and discount < 1:
            continue  # on the edge the two ways of rounding may differ
        safe = all(z > 0 if accounting == "cumulative" else z >= 0 for z in checked)
        assert bool(ledger.safe(torch.tensor([index]), limits[:1])[0]) is safe


def test_a_worst_case_score_equal_to_the_limit_is_safe_and_a_spent_budget_is_not():
    data = rollouts([[0.5, 0.25]])
    limit = torch.tensor([0.5], dtype=torch.float64)
    one = torch.tensor([0])
    assert Ledger(data, 0, accounting="worst", discount=1.0, terminal=False).safe(one, limit)
    assert not Ledger(data, 0, accounting="cumulative", discount=1.0, terminal=False).safe(one, limit + 0.25)


def test_terminal_forgives_what_was_earned_back():
    data = rollouts([[3.0, -3.0]])
    one, limit = torch.tensor([0]), torch.tensor([1.0], dtype=torch.float64)
    assert not Ledger(data, 0, accounting="cumulative", discount=1.0, terminal=False).safe(one, limit)
    assert Ledger(data, 0, accounting="cumulative", discount=1.0, terminal=True).safe(one, limit)


GOOD = rollouts([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3)}, r"give \(N, H\)"),
        ({"position": torch.arange(2)}, "position has 2 entries"),
        ({"prompt": torch.arange(5)}, "prompt has 5 entries"),
        ({"costs": torch.full((3, 1), math.nan)}, "costs of the rollouts hold NaN"),
        ({"reward": torch.tensor([0.0, math.inf])}, "reward of the rollouts"),
        ({"response": torch.tensor([0, 0, 2])}, "outside 0 to 1"),
        ({"position": torch.tensor([1, 0, 0])}, "rows must stand response by response"),
        ({"response": torch.tensor([0, 1, 0]), "position": torch.zeros(3, dtype=torch.long)}, "response by response"),
    ],
)
def test_rollouts_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ConfigurationError, match=message):
        replace(GOOD, **change)


def test_no_rollouts_are_refused():
    with pytest.raises(ConfigurationError, match="no rollouts"):
        replace(
            GOOD,
            features=torch.zeros(0, 2),
            response=GOOD.response[:0],
            position=GOOD.position[:0],
            costs=GOOD.costs[:0],
        )


def test_the_fingerprint_sees_every_number():
    assert GOOD.fingerprint() == rollouts([[1.0, 2.0], [3.0]]).fingerprint()
    assert GOOD.fingerprint() != rollouts([[1.0, 2.0], [3.5]]).fingerprint()
