"""From names to all parts of a guard: presets, hub ids, local folders, callables; what has a name is loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins import presets
from ig_plugins.chat import prompt_format as make_format
from ig_plugins.errors import ConfigurationError, did_you_mean
from ig_plugins.guard.checks import check_models, check_remote, preset_of
from ig_plugins.guard.components import Components, serves
from ig_plugins.guard.critics import bound_to, check_critic, critic_name, load_critic
from ig_plugins.guard.generation import generation_defaults
from ig_plugins.guard.judges import budgets_of, load_costs, load_judge_of
from ig_plugins.guard.options import Options
from ig_plugins.guard.policies import load_checkpoint, load_remote_policy, make_policy, name_of, pick_device
from ig_plugins.presets import Checkpoint, Preset
from ig_plugins.remote import RemotePolicy, is_remote
from ig_plugins.runtime import place_of, release_openmp_threads, shared
from ig_plugins.search import Policy


def load_components(
    model: str | Path | tuple[Any, PreTrainedTokenizerBase],
    *,
    cost_model: Any,
    reward_model: Any,
    critic: Any,
    budget: Any,
    prompt_format: str | None,
    revision: str | None,
    device: Any,
    dtype: Any,
    load_options: dict[str, Any],
    tokenizer: Any = None,
) -> tuple[Components, Options]:
    """Loads what `InferenceGuard.from_pretrained` was asked for; see there; and the options of a call by default.

    Guards whose parts all have names share them, and so are decoded in one batch.
    """
    model = str(model) if isinstance(model, Path) else model
    cost_model, reward_model, critic = (
        str(x) if isinstance(x, Path) else x for x in (cost_model, reward_model, critic)
    )
    tokenizer = str(tokenizer) if isinstance(tokenizer, Path) else tokenizer
    check_remote(model, tokenizer=tokenizer, revision=revision, dtype=dtype)
    wanted = (model, cost_model, reward_model, critic, prompt_format, revision, tokenizer)
    chosen = preset_of(model)

    recipe = {
        "model": model, "cost_model": cost_model, "reward_model": reward_model, "critic": critic, "budget": budget,
        "prompt_format": prompt_format, "revision": revision, "device": device, "dtype": dtype,
        "load_options": load_options, "tokenizer": tokenizer,
    }  # fmt: skip

    def load() -> Components:
        check_models(chosen, costs=cost_model, reward=reward_model, critic=critic)
        components = _load_components(
            chosen, model, cost_model, reward_model, critic, budget, prompt_format, revision,
            {"device": pick_device(device), "dtype": dtype}, load_options, tokenizer,
        )  # fmt: skip
        components.recipe = recipe
        return components

    if not all(part is None or part is False or isinstance(part, str) for part in wanted):
        components = load()
    else:
        components = shared(
            ("parts", *map(place_of, wanted), *map(str, (device, dtype, budget, sorted(load_options.items())))), load
        )
    release_openmp_threads()  # answers may be asked for from other threads than this one
    return components, _defaults(components.policy) if chosen is None else _chosen(chosen, components.policy)


def _chosen(chosen: Preset, policy: Policy) -> Options:
    """The options of a call as a preset has them, but for what a server cannot do."""
    return Options(search=chosen.search, tool_threshold=None if policy.remote else chosen.tool_threshold)


def _defaults(policy: Policy) -> Options:
    """The options of a call where no preset has any: what the checkpoint says, as far as the policy can do it."""
    model = None if policy.remote else policy.engine.body.model
    stated = policy.stated if isinstance(policy, RemotePolicy) else getattr(model, "generation_config", None)
    options = generation_defaults(stated)
    return options.model_copy(update={"search": policy.standard(options.search)})


def _load_components(
    chosen: Preset | None,
    model: str | tuple[Any, PreTrainedTokenizerBase],
    cost_model: Any,
    reward_model: Any,
    critic: Any,
    budget: Any,
    prompt_format: str | None,
    revision: str | None,
    place: dict[str, Any],
    load_options: dict[str, Any],
    tokenizer: Any,
) -> Components:
    named = model if isinstance(model, str) else name_of(model[0])
    if chosen is None and cost_model is None:
        raise ConfigurationError(
            f"{named!r} is no preset, so cost_model is needed: without one nothing can be verified. "
            f"Give a checkpoint or a callable, or use a preset: {', '.join(presets.names())}."
            f"{did_you_mean(named, presets.names())}"
        )
    source = chosen.policy if chosen else Checkpoint(source=named, revision=revision, licence="")
    policy: Policy
    if is_remote(model):
        policy = load_remote_policy(str(model), tokenizer=tokenizer, load_options=load_options)
    elif isinstance(model, str):
        policy = load_checkpoint(source, revision, load_options, place)
    else:
        policy = shared(("policy", id(model[0]), id(model[1])), lambda: make_policy(*model))
    costs = load_costs(chosen, cost_model, place, policy)
    reward = load_judge_of(
        reward_model if reward_model is not None else _source(chosen, "reward"), "reward", place, policy
    )
    budgets = budgets_of(chosen if cost_model is None else None, list(costs.values()), budget)
    replaced = cost_model is not None or reward_model is not None
    latent = load_critic(chosen, critic, replaced=replaced, device=place["device"])
    if latent is not None and critic is None and not serves(latent, budgets):
        latent = None  # the preset's own critic; one that the user names is refused below
    if latent is not None and isinstance(policy, RemotePolicy):
        policy = policy.with_states()
    names = {
        "model": named,
        "policy": source.source,
        "revision": revision or source.revision,
        "cost_model": ", ".join(costs),
        "reward_model": reward.name if reward else None,
        "critic": critic_name(chosen, critic) if latent else None,
        "dtype": None if policy.remote else str(policy.engine.dtype).removeprefix("torch."),
    }
    components = Components(
        policy=policy,
        prompt_format=make_format(prompt_format or (chosen.prompt_format if chosen else "auto"), policy.tokenizer),
        costs=costs,
        budgets=budgets,
        reward=reward,
        critic=latent,
        names=names,
    )
    if latent is not None:
        named, at = bound_to(latent, policy, tokenizer) or (source.source, revision or source.revision)
        check_critic(latent, policy, named, budgets, revision=at)
    return components


def _source(chosen: Preset | None, part: str) -> Checkpoint | None:
    return getattr(chosen, part) if chosen else None
