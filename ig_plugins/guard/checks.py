"""What can be refused before weights are read: a typo shall cost milliseconds, not minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from critic_models.hub import find_checkpoint
from critic_models.safety import SafetyBudget
from ig_plugins import presets
from ig_plugins.chat.formats import FORMATS
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard.options import Options, as_budgets, configuration_errors
from ig_plugins.presets import Checkpoint, Preset
from ig_plugins.remote import Address, is_remote
from ig_plugins.search import SearchConfig

ANY_LIMIT = SafetyBudget(accounting="worst", limit=0.0)


def preset_of(model: Any) -> Preset | None:
    """The preset that a model's name stands for."""
    return presets.preset(model) if isinstance(model, str) and presets.known(model) else None


def check_options(
    model: Any,
    options: Mapping[str, Any],
    *,
    search: SearchConfig | None = None,
    cost_model: Any = None,
    budget: Any = None,
    prompt_format: str | None = None,
    dtype: Any = None,
) -> None:
    """Refuses settings that are not allowed, whatever the models turn out to be.

    Raises:
        TypeError: A name that is no option.
        ConfigurationError: A value that is not allowed, with the values that are.
    """
    chosen = preset_of(model)
    with configuration_errors():
        standard = Options(search=search or (chosen.search if chosen else SearchConfig()))
    standard.updated(**options)
    if budget is not None:
        own = chosen.costs if chosen and cost_model is None else _each(cost_model)
        with configuration_errors():
            as_budgets(budget, [_stated(each) for each in own])
    if prompt_format is not None and prompt_format not in FORMATS:
        raise ConfigurationError(f"prompt_format is {prompt_format!r}; allowed are {', '.join(FORMATS)}")
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and not (isinstance(named, torch.dtype) and named.is_floating_point):
        raise ConfigurationError(f"dtype is {dtype!r}; give one such as 'float32', 'bfloat16', 'float16' or 'auto'")


def check_remote(model: Any, *, tokenizer: Any, revision: Any, dtype: Any) -> None:
    """Refuses what a server decides, or cannot give; and a tokenizer where the model brings its own.

    Raises:
        ConfigurationError: Names it.
    """
    if not is_remote(model):
        if tokenizer is not None:
            raise ConfigurationError("tokenizer is for a model behind a server's address; others bring their own")
        return
    Address.parse(model)
    for name, value in (("revision", revision), ("dtype", dtype)):
        if value is not None:
            raise ConfigurationError(
                f"{name} is {value!r}, but the server decides which weights it holds; leave it out"
            )


def check_models(chosen: Preset | None, *, costs: Any, reward: Any, critic: Any) -> None:
    """Refuses judges and critics that are named and not there; their weights are not read.

    Raises:
        ConfigurationError: A preset's variant that it does not have.
        ModelLoadError: No such folder, hub id or file.
    """
    costs = chosen.costs if chosen and costs is None else costs
    for kind, thing in [*(("cost", cost) for cost in _each(costs)), ("reward", reward), ("critic", critic)]:
        if thing is None and chosen and kind != "cost":
            thing = getattr(chosen, kind)
        if isinstance(thing, str) and kind != "critic" and presets.known(thing):
            thing = getattr(presets.preset(thing), kind)
        if isinstance(thing, str):
            thing = Checkpoint(source=thing, licence="")
        if isinstance(thing, Checkpoint) and not _is_no_checkpoint(thing.source):
            find_checkpoint(presets.located(thing.source), revision=thing.revision)


def _each(costs: Any) -> Sequence[Any]:
    return costs if isinstance(costs, list | tuple) else [costs]


def _stated(cost: Any) -> SafetyBudget:
    """The budget that a preset states; for a cost model that has not been read yet, one that takes any limit."""
    budget = getattr(cost, "budget", None)
    return budget if isinstance(budget, SafetyBudget) else ANY_LIMIT


def _is_no_checkpoint(source: str) -> bool:
    """Whether this is a function's name (``module:function``) or an address, for which no file is sought."""
    return ":" in source and not source.startswith(presets.BUNDLED) and not source.lower().endswith(".gguf")
