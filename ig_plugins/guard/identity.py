"""What a guard is: its parts as they are in memory, and its settings, as plain JSON.

Caches compare all of it. A certificate compares what the promise depends on: neither names, nor what only decides how
an answer is drawn from the certified distribution, or how a block is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from critic_models.identity import describe, unknown_parts, weights
from ig_plugins.remote.model import RemotePolicy

if TYPE_CHECKING:
    from ig_plugins.guard.components import Components
    from ig_plugins.guard.options import Options

FORMAT = 2  # 1: names of models, and hashes of their files
PARTS = ("policy", "prompt_format", "costs", "reward", "critic")
# Paths that a certificate does not speak of. The promise is over all seeds; a blocked answer is blocked however the
# caller hears of it; a name is no part of what a thing is.
UNBOUND = (("models",), ("certificate",), ("on_block",), ("search", "seed"))


def identity(
    components: Components, options: Options, *, certificate: str | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Everything that decides an answer.

    Args:
        components: The models.
        options: The settings.
        certificate: The hash that the guard's results speak of, if any.
        fresh: Read every weight again, instead of looking whether it has changed.
    """
    if fresh:
        weights.forget()
    return {
        "format": FORMAT,
        "models": {**components.names, "judges": list(components.costs)},
        **parts_identity(components),
        **settings(options),
        "certificate": certificate,
    }


def parts_identity(components: Components) -> dict[str, Any]:
    """What the models are."""
    policy = components.policy
    body = getattr(policy.tree, "body", None)
    if isinstance(policy, RemotePolicy):
        model: Any = policy.tree.description()
    else:
        model = describe(policy.tree if body is None else body.model)
    own = describe(policy.tokenizer)
    form = describe(components.prompt_format)
    if isinstance(form, dict) and form.get("tokenizer") == own:
        form = {**form, "tokenizer": "the policy's"}
    return {
        "policy": {
            "model": model,
            "tokenizer": own,
            "stop_ids": sorted(policy.stop_ids),
        },
        "prompt_format": form,
        "costs": [_judge(components, judge) for judge in components.costs.values()],
        "reward": None if components.reward is None else _judge(components, components.reward),
        "critic": describe(components.critic),
    }


def settings(options: Options) -> dict[str, Any]:
    """What the options say; timeouts are left out, since they decide whether there is an answer, not which."""
    search = options.search.model_dump(mode="json")
    search["calm_candidates"] = search.pop("narrow_candidates")  # format 2's name: certificates and runs hold its hash
    others = {  # only where they say something: the hashes of certificates and runs stay as they were
        "stop_token_ids": list(options.stop_token_ids),
        "chat_template_kwargs": describe(options.chat_template_kwargs) if options.chat_template_kwargs else None,
        "last_assistant": None if options.last_assistant == "turn" else options.last_assistant,
        "tool_threshold": options.tool_threshold if options.tools else None,
        "held_to": None if options.held_to is None else list(options.held_to),
    }
    return {
        "budgets": [budget.model_dump(mode="json") for budget in options.budgets],
        "search": search,
        "stop": list(options.stop),
        "on_block": options.on_block,
        "refusal": options.refusal,
        "raw_prompt": options.raw_prompt,
        "tools": describe(options.tools),
        "tool_choice": describe(options.tool_choice),
        "logits_processors": describe(options.logits_processors),
        **{name: value for name, value in others.items() if value not in (None, [])},
    }


def bound(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that a certificate speaks of."""
    found = {key: value for key, value in identity.items() if (key,) not in UNBOUND}
    for key, value in found.items():
        if isinstance(value, Mapping):
            found[key] = {name: part for name, part in value.items() if (key, name) not in UNBOUND}
    return found


def unknown(identity: Mapping[str, Any]) -> list[str]:
    """What nobody knows of the parts that a certificate would speak of, in words."""
    return [f"{at} ({what})" for at, what in unknown_parts(bound(identity))]


def _judge(components: Components, judge: Any) -> dict[str, Any]:
    return {"judge": describe(judge), "reads": "text" if components.judge_tree(judge) is None else "tokens"}
