"""From names to judges, and the budgets that a guard holds them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from critic_models.judges import Judge, as_judge, load_judge
from critic_models.judges.loading import is_probe
from critic_models.safety import SafetyBudget
from ig_plugins import presets
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard.options import as_budgets, configuration_errors
from ig_plugins.guard.policies import pick_device
from ig_plugins.presets import Checkpoint, CostCheckpoint, Preset
from ig_plugins.runtime import place_of, shared
from ig_plugins.search import Policy


def load_costs(chosen: Preset | None, cost_model: Any, place: Mapping[str, Any], policy: Policy) -> dict[str, Judge]:
    """The cost models by name, a name that is there already with a ' behind it; the preset's where none are given."""
    given = cost_model if cost_model is not None else list(chosen.costs) if chosen else None
    judges = [
        load_judge_of(each, "cost", place, policy) for each in (given if isinstance(given, list | tuple) else [given])
    ]
    costs: dict[str, Judge] = {}
    for judge in judges:
        if judge is None:
            raise ConfigurationError("a cost model is None; give a checkpoint, a judge or a callable")
        name = judge.name
        while name in costs:
            name += "'"
        costs[name] = judge
    return costs


def load_cost_model(cost_model: Any, *, device: Any = None, dtype: Any = None) -> Judge:
    """One cost model without a guard around it, for what only judges; guards that name it share its weights.

    Args:
        cost_model: A preset's name (its cost model), a checkpoint, a judge, or a callable.
        device: Where to run; by default CUDA, then MPS, then the CPU.
        dtype: Of its weights.

    Raises:
        ConfigurationError: There is none.
        ModelLoadError: It cannot be loaded.
    """
    judge = load_judge_of(cost_model, "cost", {"device": pick_device(device), "dtype": dtype})
    if judge is None:
        raise ConfigurationError("cost_model is None; give a preset, a checkpoint, a judge or a callable")
    return judge


def load_judge_of(thing: Any, kind: Any, place: Mapping[str, Any], policy: Policy | None = None) -> Judge | None:
    """A judge from a preset's checkpoint, a name, or an object; a probe reads the policy's own states."""
    if thing is None or thing is False:
        return None
    if isinstance(thing, str) and presets.known(thing):
        thing = getattr(presets.preset(thing), kind)
    if isinstance(thing, str):
        thing = Checkpoint(source=thing, licence="")
    if not isinstance(thing, Checkpoint):
        return as_judge(thing, kind=kind)
    source, revision = thing.source, thing.revision
    at, name = presets.located(source), source.removeprefix(presets.BUNDLED)
    key = ("judge", kind, place_of(source), revision, str(place["device"]), str(place["dtype"]))
    options: dict[str, Any] = {"kind": kind, "revision": revision, "name": name, **place}
    if policy is not None and is_probe(at, revision=revision):  # which a server's policy refuses
        own = (policy.engine.body.model, policy.tokenizer)
        return shared((*key, id(own[0])), lambda: load_judge(at, policy=own, **options))
    return shared(key, lambda: load_judge(at, **options))


def budgets_of(chosen: Preset | None, judges: Sequence[Judge], budget: Any) -> tuple[SafetyBudget, ...]:
    """A budget for each cost model: what is given, else the preset's, else the cost model's own."""
    with configuration_errors():
        defaults = (
            tuple(map(_budget, chosen.costs, judges)) if chosen else tuple(_budget(None, judge) for judge in judges)
        )
        return defaults if budget is None else as_budgets(budget, defaults)


def _budget(checkpoint: CostCheckpoint | None, judge: Judge) -> SafetyBudget:
    """A preset's budget for a cost model, else the cost model's own."""
    if checkpoint is not None and checkpoint.budget != "own":
        return checkpoint.budget
    return SafetyBudget(accounting=judge.default_accounting, limit=judge.default_limit, discount=judge.default_discount)
