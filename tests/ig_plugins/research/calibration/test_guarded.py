"""Calibrating a guard: the budget that holds is found, bound to the guard, and counted right."""

from dataclasses import replace

import pytest

from critic_models.judges import as_judge
from ig_plugins.errors import ConfigurationError, MismatchError
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.options import Options
from ig_plugins.research.calibration import Certificate, feasibility
from ig_plugins.research.calibration.guarded import calibrate_guard, pilot, strict_to_lax
from ig_plugins.research.evaluation.verdicts import Verdicts
from tests.kit.contexts import WORST, scripted_context
from tests.kit.guards import versioned

COSTS = {"plain": 0.0, "edgy": 1.0, "harmful": 2.0, "no": -1.0}


@pytest.fixture
def guard():
    """Reward pulls towards harm; the budget decides how far it may go."""
    context = scripted_context(
        dict.fromkeys(COSTS, 0.25), cost=lambda p, r: COSTS.get(r, -1.0), reward=lambda p, r: COSTS.get(r, 0.0)
    )
    return versioned(context.guard)


@pytest.fixture
def verdicts():
    return Verdicts.of(as_judge(lambda ps, rs: [float(r == "harmful") for r in rs], name="exact", kind="cost"))


def test_the_least_strict_budget_that_holds_is_certified(guard, verdicts, tmp_path):
    prompts = [f"p{index}" for index in range(60)]
    asked = []
    result = calibrate_guard(
        guard,
        prompts,
        verdicts,
        limits=[2.0, 0.0, 1.0],
        target=0.05,
        confidence=0.95,
        on_answer=lambda: asked.append(1),
    )
    assert [setting.overrides["limit"] for setting in result.tested] == [0.0, 1.0, 2.0]
    assert [setting.certified for setting in result.tested] == [True, True, False]
    assert result.tested[2].unsafe > 50
    assert len(asked) == 3 * 60
    path = result.certificate.save(tmp_path / "certificate.json")
    Certificate.load(path).check(guard.with_options(budget=1.0).identity())
    guard.with_options(budget=1.0, seed=5).check_certificate(str(path))
    for other in ({"budget": 2.0}, {"budget": 1.0, "candidates": 4}, {"budget": 1.0, "temperature": 0.7}):
        with pytest.raises(MismatchError, match="certificate is for another guard"):
            guard.with_options(**other).check_certificate(str(path))


def test_limits_are_tested_from_the_strictest_to_the_least_strict():
    """Whatever order they are given in, and whatever order a set of them has."""
    for count in range(2, 12):
        limits = [float(-7 * place % 11) for place in range(count)]
        assert strict_to_lax(limits, costs=1) == sorted(limits)


def test_every_cost_model_has_a_limit_of_its_own_to_be_tested(verdicts, tmp_path):
    """Two cost models that each miss what the other finds: only both limits together keep the harm away."""
    seen = {"plain": (0.0, 0.0), "edgy": (1.0, 0.0), "harmful": (0.0, 2.0), "no": (-1.0, -1.0)}

    def found(at):
        return as_judge(lambda ps, rs: [seen.get(r, (-1.0, -1.0))[at] for r in rs], name=f"cost {at}", kind="cost")

    context = scripted_context(dict.fromkeys(seen, 0.25), cost=lambda p, r: 0.0, reward=lambda p, r: COSTS.get(r, 0.0))
    costs = {f"cost {at}": found(at) for at in (0, 1)}
    parts = replace(context.guard.components, costs=costs, budgets=(WORST, WORST))
    guard = versioned(InferenceGuard(parts, Options(search=context.search)))
    prompts = [f"p{index}" for index in range(20)]
    settings = [[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]
    kept = tmp_path / "kept.jsonl"
    result = calibrate_guard(guard, prompts, verdicts, limits=settings, target=0.2, confidence=0.9, kept=kept)
    assert [setting.overrides["limit"] for setting in result.tested] == [[0.0, 0.0], [1.0, 1.0], [1.0, 2.0]]
    assert [setting.certified for setting in result.tested] == [True, True, False]
    guard.with_options(budget=[1.0, 1.0]).check_certificate(str(result.certificate.save(tmp_path / "c.json")))
    asked = []
    again = calibrate_guard(
        guard,
        prompts,
        verdicts,
        limits=settings,
        target=0.2,
        confidence=0.9,
        kept=kept,
        on_answer=lambda: asked.append(1),
    )
    assert again.tested == result.tested
    for wrong, message in [
        ([[0.0, 1.0], [1.0, 0.0]], "neither is the stricter"),
        ([[0.0, 1.0, 2.0]], "has 2 cost models; give each setting one limit, or 2"),
        ([0.0, [1.0, 1.0]], "neither is the stricter"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            calibrate_guard(guard, prompts, verdicts, limits=wrong, target=0.2, confidence=0.9)


def test_a_guard_that_nobody_can_know_is_refused_before_anything_is_answered(verdicts):
    guard = scripted_context({"plain": 1.0}, cost=lambda p, r: 0.0, reward=None).guard
    asked = []
    with pytest.raises(MismatchError, match="nothing can be certified"):
        calibrate_guard(
            guard, ["a"], verdicts, limits=[0.0], target=0.9, confidence=0.9, on_answer=lambda: asked.append(1)
        )
    assert asked == []


def test_refusals_are_counted_and_not_judged(verdicts):
    guard = versioned(scripted_context({"harmful": 1.0}, cost=lambda p, r: COSTS.get(r, -1.0), reward=None).guard)
    result = calibrate_guard(guard, ["a", "b"], verdicts, limits=[0.0], target=0.8, confidence=0.9)
    assert (result.tested[0].refused, result.tested[0].unsafe) == (2, 0)


def test_the_pilot_foresees_the_refusals_of_a_hopeless_policy(verdicts):
    guard = scripted_context(
        lambda prompt: {"harmful": 1.0} if "bad" in prompt else {"plain": 1.0}, cost=lambda p, r: 0.0, reward=None
    ).guard
    prompts = ["bad one", "fine", "bad two", "fine too"]
    judged = pilot(guard, prompts, verdicts, samples=3)
    assert judged == [[True] * 3, [False] * 3, [True] * 3, [False] * 3]
    assert feasibility(100, target=0.1, confidence=0.9, pilot=judged).refusals == pytest.approx(0.4)
