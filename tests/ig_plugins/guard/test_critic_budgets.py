"""A critic serves the budgets it was trained for; other budgets are searched without it, a named critic is refused."""

import pytest

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
    assert guard.parts.serving(guard.with_options(budget=60.0).options.budgets).critic is None
    assert guard.parts.serving(guard.options.budgets) is guard.parts


def test_a_tiny_budget_blocks_rather_than_fails(guard):
    result = guard.generate(ASK, budget=1e-6, candidates=4, beams=2)
    assert result.blocked or result.safety_state > 0


def test_a_presets_own_critic_gives_way_to_the_budget_and_a_named_one_is_refused():
    assert InferenceGuard.from_pretrained("tiny-beaver", budget=100.0).parts.critic is None
    assert InferenceGuard.from_pretrained("tiny-beaver", budget=5.0).parts.critic is not None
    from critic_models import bundled

    named = str(bundled.path("tiny-beaver-critic"))
    with pytest.raises(MismatchError, match=r"2\.5 to 40.*100"):
        InferenceGuard.from_pretrained("tiny-beaver", budget=100.0, critic=named)
