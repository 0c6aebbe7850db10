"""A budget that cannot mean anything is refused, with a message that says what to do."""

import pytest
from pydantic import ValidationError

from critic_models.safety import SafetyBudget


@pytest.mark.parametrize("limit", [0, -1.5])
def test_a_cumulative_limit_must_be_positive(limit):
    with pytest.raises(ValidationError, match=rf"limit is {float(limit)}.*above 0.*accounting='worst'"):
        SafetyBudget(limit=limit)


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("accounting", ["cumulative", "worst"])
def test_a_limit_must_be_finite(limit, accounting):
    with pytest.raises(ValidationError, match=rf"limit is {limit}.*finite"):
        SafetyBudget(limit=limit, accounting=accounting)


@pytest.mark.parametrize("limit", [0.0, -3.5, 0.5])
def test_a_worst_limit_may_be_any_finite_number(limit):
    assert SafetyBudget(limit=limit, accounting="worst").limit == limit


@pytest.mark.parametrize("discount", [0.0, -0.1, 1.001, float("nan"), float("inf")])
def test_a_discount_lies_in_zero_one(discount):
    with pytest.raises(ValidationError, match="discount"):
        SafetyBudget(discount=discount)


@pytest.mark.parametrize("field", [{"accounting": "sum"}, {"reading": "sometimes"}, {"gamma": 0.9}])
def test_unknown_words_are_refused(field):
    with pytest.raises(ValidationError, match=next(iter(field))):
        SafetyBudget(**field)


def test_a_budget_cannot_be_changed():
    budget = SafetyBudget()
    with pytest.raises(ValidationError, match="frozen"):
        budget.limit = 99.0


def test_defaults_are_the_published_ones():
    budget = SafetyBudget()
    assert (budget.limit, budget.discount, budget.accounting, budget.reading) == (10.0, 0.999, "cumulative", "any_time")
