"""From names to critics, and what a critic is bound to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from critic_models.critic import LatentCritic, tokenizer_hash
from critic_models.safety import SafetyBudget
from ig_plugins import presets
from ig_plugins.presets import Checkpoint, Preset
from ig_plugins.remote import RemotePolicy
from ig_plugins.runtime import place_of, shared
from ig_plugins.search import Policy


def load_critic(chosen: Preset | None, critic: Any, *, replaced: bool, device: torch.device) -> LatentCritic | None:
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
        ("critic", place_of(source), revision, str(device)),
        lambda: LatentCritic.from_pretrained(at, revision=revision, device=device),
    )


def critic_name(chosen: Preset | None, critic: Any) -> str | None:
    """What the critic is called in results."""
    if isinstance(critic, str):
        return critic
    if critic is None:
        return chosen.critic.source if chosen and chosen.critic else None
    return type(critic).__name__


def bound_to(critic: LatentCritic, policy: Policy, tokenizer: Any) -> tuple[str, str | None] | None:
    """What a critic's binding is compared with where a server runs the policy: one of its names, and its version."""
    if not isinstance(policy, RemotePolicy):
        return None
    preset = isinstance(tokenizer, str) and presets.known(tokenizer)
    names = {*policy.names, *([presets.preset(tokenizer).policy.source] if preset else [])}
    wanted = critic.binding.policy_id if critic.binding else None
    return wanted if wanted in names else policy.tree.server.model, policy.tree.options.version


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
