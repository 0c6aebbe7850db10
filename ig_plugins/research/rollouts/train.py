"""A critic for any policy: collect its rollouts, fit the critic, bind it to the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from critic_models.critic import CriticBinding, CriticCost, LatentCritic, tokenizer_hash
from critic_models.training.critic import CriticTrainingConfig, TrainingCost, fit_critic
from critic_models.training.critic import measure_critic as figures
from ig_plugins.guard import InferenceGuard
from ig_plugins.research.rollouts.collect import Part, RolloutConfig, collect, collect_part

UNSEEN = "unseen"
"""The folder of the rollouts of unseen topics, in that of the others."""

Progress = Callable[[str, int, int], None]
"""(stage, done, total)"""


def train_critic(
    guard: InferenceGuard,
    prompts: Sequence[str],
    folder: Path,
    *,
    unseen: Sequence[str] = (),
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
        unseen: User turns about topics that no prompt of training is about; the metrics say how good it is there.
        rollouts: How many responses, in which batches, from which seed.
        training: Of the critic; its costs and block size are the guard's.
        command: Written into the binding.
        progress: Told of the stages "rollouts", "unseen" and "training".

    Returns:
        The critic, bound to the policy, and its metrics on held-out prompts.
    """
    collecting = rollouts or RolloutConfig()
    data = collect(guard, prompts, folder, config=collecting, progress=partial(progress, "rollouts"))
    apart = None
    if unseen:
        apart = collect(guard, unseen, folder / UNSEEN, config=collecting, progress=partial(progress, "unseen"))
    critic, metrics = fit_critic(
        data,
        config=_settings(guard, training or CriticTrainingConfig()),
        unseen=apart,
        on_epoch=lambda done, total, loss: progress("training", done, total),
    )
    names = guard.components.names
    critic.binding = CriticBinding(
        policy_id=str(names.get("policy")),
        policy_revision=names.get("revision"),
        tokenizer_hash=tokenizer_hash(guard.tokenizer),
        cost_models=tuple(guard.components.costs),
        reward_model=guard.components.reward.name if guard.components.reward else None,
        data_fingerprint=data.fingerprint(),
        metrics=metrics,
        command=command,
    )
    return critic, metrics


def collect_rollouts(
    guard: InferenceGuard,
    prompts: Sequence[str],
    folder: Path,
    *,
    part: Part,
    unseen: Sequence[str] = (),
    rollouts: RolloutConfig | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Collects one part of what `train_critic` learns from; arguments as there.

    Machines that share the folder take a part each; `train_critic` then finds all of it there.
    """
    config = rollouts or RolloutConfig()
    for stage, place, texts in (("rollouts", folder, prompts), ("unseen", folder / UNSEEN, unseen)):
        if texts:
            collect_part(guard, texts, place, config=config, part=part, progress=partial(progress, stage))


def measure_critic(
    guard: InferenceGuard,
    critic: LatentCritic,
    prompts: Sequence[str],
    folder: Path,
    *,
    rollouts: RolloutConfig | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """How good a critic is on prompts that it has not learned from; arguments as in ``train_critic``.

    Returns:
        The metrics of ``fit_critic``, at the guard's budgets.
    """
    config = rollouts or RolloutConfig()
    data = collect(guard, prompts, folder, config=config, progress=partial(progress, "rollouts"))
    settings = _settings(guard, CriticTrainingConfig(recalls=critic.config.recalls))
    ranges = {"costs": tuple(map(_with_range_of, settings.costs, critic.config.costs))}
    return figures(critic, data, config=settings.model_copy(update=ranges))


def _with_range_of(cost: TrainingCost, trained: CriticCost) -> TrainingCost:
    return cost.model_copy(update={"budget_range": (trained.lowest, trained.highest)})


def _settings(guard: InferenceGuard, training: CriticTrainingConfig) -> CriticTrainingConfig:
    """Settings of training, with costs counted and blocks as long as the guard's."""
    costs = tuple(
        TrainingCost(accounting=b.accounting, limit=b.limit, discount=b.discount, reading=b.reading)
        for b in guard.options.budgets
    )
    return training.model_copy(update={"costs": costs, "block_tokens": guard.search.block_tokens})
