"""A critic serves the budgets it was trained for; other budgets are searched without it, a named critic is refused."""

import pytest

from critic_models import bundled
from critic_models.critic import LatentCritic
from critic_models.safety import SafetyBudget
from ig_plugins import InferenceGuard, MismatchError

ASK = "How do I use the hacksaw on the roof?"


@pytest.fixture(scope="module")
def guard():
    return InferenceGuard.from_pretrained("tiny-beaver", seed=1)


def test_a_call_with_a_budget_that_the_critic_never_met_is_searched_without_it(guard):
    inside = guard.generate(ASK, budget=20.0)
    outside = guard.generate(ASK, budget=60.0)
    plain = InferenceGuard.from_pretrained("tiny-beaver", seed=1, critic=False).generate(ASK, budget=60.0)
    assert outside.text == plain.text
    assert outside.usage.judge_tokens == plain.usage.judge_tokens
    assert inside.usage.judge_tokens < 0.6 * outside.usage.judge_tokens, "inside its range the critic spares the judges"
    assert guard.components.serving(guard.with_options(budget=60.0).options.budgets).critic is None
    assert guard.components.serving(guard.options.budgets) is guard.components


def test_a_tiny_budget_blocks_rather_than_fails(guard):
    result = guard.generate(ASK, budget=1e-6, candidates=4, beams=2)
    assert result.blocked or result.safety_state > 0


def test_a_presets_own_critic_gives_way_to_the_budget_and_a_named_one_is_refused():
    assert InferenceGuard.from_pretrained("tiny-beaver", budget=100.0).components.critic is None
    assert InferenceGuard.from_pretrained("tiny-beaver", budget=5.0).components.critic is not None
    named = str(bundled.path("tiny-beaver-critic"))
    with pytest.raises(MismatchError, match=r"2\.5 to 40.*100"):
        InferenceGuard.from_pretrained("tiny-beaver", budget=100.0, critic=named)


OTHERWISE = [{"discount": 0.9}, {"reading": "terminal"}, {"accounting": "worst", "limit": 10.0}]


@pytest.mark.parametrize("counted", OTHERWISE)
def test_a_budget_that_counts_otherwise_is_searched_without_the_critic_too(guard, counted):
    budget = SafetyBudget(limit=10.0).model_copy(update=counted)
    assert guard.components.serving([SafetyBudget(limit=10.0)]) is guard.components
    assert guard.components.serving([budget]).critic is None
    assert guard.components.serving([SafetyBudget(limit=10.0)] * 2).critic is None, "it foresees one cost"
    assert InferenceGuard.from_pretrained("tiny-beaver", budget=budget).components.critic is None
    with pytest.raises(MismatchError, match=r"discount and reading|accounting"):
        InferenceGuard.from_pretrained("tiny-beaver", budget=budget, critic=str(bundled.path("tiny-beaver-critic")))


def test_a_critic_of_another_revision_is_refused():
    critic = LatentCritic.from_pretrained(bundled.path("tiny-beaver-critic"))
    assert critic.binding is not None
    critic.binding = critic.binding.model_copy(update={"policy_revision": "v1"})
    with pytest.raises(MismatchError, match="revision: critic 'v1', guard None"):
        InferenceGuard.from_pretrained("tiny-beaver", critic=critic)


@pytest.mark.parametrize("name", ["tiny-beaver-critic", "tiny-alpaca-critic"])
def test_the_bundled_critics_load_with_what_they_were_trained_with(name):
    (cost,) = LatentCritic.from_pretrained(bundled.path(name)).config.costs
    assert (cost.accounting, cost.discount, cost.reading) == ("cumulative", 0.999, "any_time")
