"""A critic for any policy: collect its rollouts, fit the critic, bind it to the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from critic_models.latent import CriticBinding, LatentCritic, tokenizer_hash
from critic_models.training.critic import CriticTrainingConfig, TrainingCost, fit_critic
from ig_plugins.guard import InferenceGuard
from ig_plugins.rollouts.collect import RolloutConfig, collect

Progress = Callable[[str, int, int], None]
"""(stage, done, total)"""


def train_critic(
    guard: InferenceGuard,
    prompts: Sequence[str],
    folder: Path,
    *,
    rollouts: RolloutConfig | None = None,
    training: CriticTrainingConfig | None = None,
    command: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[LatentCritic, dict[str, Any]]:
    """Trains the critic of a guard's policy for the guard's judges and budgets.

    Args:
        guard: Policy, judges, budgets and sampling settings.
        prompts: User turns; some are held out for the metrics.
        folder: Where rollouts are kept, so that an interrupted run goes on.
        rollouts: How many responses, in which batches, from which seed.
        training: Of the critic; its costs and block size are the guard's.
        command: Written into the binding.
        progress: Told of the stages "rollouts" and "training".

    Returns:
        The critic, bound to the policy, and its metrics on held-out prompts.
    """
    budgets = guard.options.budgets
    data = collect(
        guard,
        prompts,
        folder,
        config=rollouts or RolloutConfig(),
        progress=lambda done, total: progress("rollouts", done, total),
    )
    settings = (training or CriticTrainingConfig()).model_copy(
        update={
            "costs": tuple(
                TrainingCost(accounting=b.accounting, limit=b.limit, discount=b.discount, reading=b.reading)
                for b in budgets
            ),
            "block_tokens": guard.search.block_tokens,
        }
    )
    critic, metrics = fit_critic(
        data, config=settings, on_epoch=lambda done, total, loss: progress("training", done, total)
    )
    names = guard.parts.names
    critic.binding = CriticBinding(
        policy_id=str(names.get("policy")),
        policy_revision=names.get("revision"),
        tokenizer_hash=tokenizer_hash(guard.tokenizer),
        cost_models=tuple(guard.parts.costs),
        reward_model=guard.parts.reward.name if guard.parts.reward else None,
        data_fingerprint=data.fingerprint(),
        metrics=metrics,
        command=command,
    )
    return critic, metrics
