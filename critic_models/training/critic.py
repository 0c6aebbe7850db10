"""Training of the latent critic on Monte-Carlo targets from the frozen policy's rollouts (paper, section 4).

At every prefix of a sampled response the targets are how it ended: safe or not, and, where it was safe, its discounted
reward; an answer that ends unsafe is never chosen, so what it would have earned misleads the search. Safety also
depends on the budget, which is drawn anew for every row and epoch (as in Sauté RL), so that one critic serves every
budget. While decoding with a critic only the last *measured* safety state is known, so the measuring point is drawn at
random as well.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from critic_models.critic import CriticConfig, CriticCost, LatentCritic
from critic_models.errors import ConfigurationError
from critic_models.training.metrics import explained, safety_metrics
from critic_models.training.rollouts import Ledger, RolloutData
from critic_models.training.settings import CriticTrainingConfig, TrainingCost

__all__ = ["CriticTrainingConfig", "RolloutData", "TrainingCost", "fit_critic", "measure_critic"]
BATCH = 8192  # rows a forward when nothing is learned
SHARES = tuple(index / 10 for index in range(11))  # of a response, for the curves of the card

Progress = Callable[[int, int, float], None]  # epochs done, epochs at most, validation loss


def fit_critic(
    rollouts: RolloutData,
    *,
    config: CriticTrainingConfig | None = None,
    unseen: RolloutData | None = None,
    on_epoch: Progress | None = None,
) -> tuple[LatentCritic, dict[str, Any]]:
    """Trains a critic; the same rollouts and config give the same critic.

    Args:
        rollouts: What the frozen policy did.
        config: See there; the defaults if None.
        unseen: What it did on prompts about topics that no training prompt is about; measured, not learned from.
        on_epoch: Told the epochs done, the most there can be, and the validation loss.

    Returns:
        The critic, yet to be bound (``critic.binding``), and its metrics on held-out prompts as plain JSON; those on
        unseen topics under ``unseen_topics``.

    Raises:
        ConfigurationError: Too few prompts to hold some out, costs that do not match the config, or a loss that is no
            longer finite.
    """
    config = config or CriticTrainingConfig()
    if rollouts.costs.shape[1] != len(config.costs):
        raise ConfigurationError(f"rollouts have {rollouts.costs.shape[1]} costs, the config {len(config.costs)}")
    started = time.perf_counter()
    train, validation, held_out = _split(rollouts, config)
    task = _Task(rollouts, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        critic = LatentCritic(_critic_config(rollouts, config, train))
    _normalise(critic, rollouts, task, train)
    epochs = _train(critic, task, train, validation, on_epoch)
    metrics = _evaluate(critic, task, held_out)
    critic.held_out_error.fill_(metrics["value_error"])
    if unseen is not None:
        metrics["unseen_topics"] = measure_critic(critic, unseen, config=config)
    metrics |= {
        "prompts": len(torch.unique(rollouts.prompt)),
        "responses": len(rollouts.reward),
        "rows": len(rollouts.features),
        "epochs": epochs,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return critic, metrics


def measure_critic(critic: LatentCritic, rollouts: RolloutData, *, config: CriticTrainingConfig) -> dict[str, Any]:
    """A critic's figures on rollouts that it has not learned from, as plain JSON; see ``fit_critic`` for the rest."""
    return _evaluate(critic, _Task(rollouts, config), torch.arange(len(rollouts.features)))


class Batch(NamedTuple):
    """Hidden states (n, H), safety states (n, C), mean hidden states (n, H); targets (n,): safe, value."""

    hidden: Tensor
    state: Tensor
    mean_hidden: Tensor | None
    safe: Tensor
    value: Tensor


class _Task:
    """Inputs and targets for any rows, budgets and measuring points."""

    def __init__(self, data: RolloutData, config: CriticTrainingConfig) -> None:
        self.data, self.config = data, config
        self.mean_hidden = data.mean_hidden() if config.recalls else None
        self.ledgers = [
            Ledger(data, index, accounting=cost.accounting, discount=cost.discount, terminal=cost.reading == "terminal")
            for index, cost in enumerate(config.costs)
        ]
        # Discounted as the search does it: by the strongest γ of the cumulative costs, 1 if there is none.
        discount = min((cost.discount for cost in config.costs if cost.accounting == "cumulative"), default=1.0)
        self.value = discount ** data.lengths.double() * data.reward.double()

    def draw_limits(self, count: int, generator: torch.Generator) -> Tensor:
        """Initial budgets, log-uniform over each cost's range, shape (count, C)."""
        columns = []
        for cost in self.config.costs:
            low, high = cost.range
            if low == high:
                columns.append(torch.full((count,), low, dtype=torch.float64))
            else:
                share = torch.rand(count, generator=generator, dtype=torch.float64)
                columns.append(torch.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return torch.stack(columns, dim=1)

    def draw_measured(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """How many tokens are measured at each row, 0 to all of them, shape (n,)."""
        count = self.data.position[rows] + 1
        anywhere = (torch.rand(len(rows), generator=generator) * (count + 1)).long().minimum(count)
        start = torch.rand(len(rows), generator=generator) < self.config.start_share
        return torch.where(start, 0, anywhere)

    def usual_limits(self, count: int) -> Tensor:
        """The limits that metrics are given for, shape (count, C)."""
        return torch.tensor([[cost.limit for cost in self.config.costs]], dtype=torch.float64).expand(count, -1)

    def batch(self, rows: Tensor, limits: Tensor, measured: Tensor) -> Batch:
        """The critic's inputs and targets for n rows."""
        response = self.data.response[rows]
        pairs = list(zip(self.ledgers, limits.unbind(dim=1), strict=True))
        state = torch.stack([ledger.state(response, measured, limit) for ledger, limit in pairs], dim=1)
        safe = torch.stack([ledger.safe(response, limit) for ledger, limit in pairs], dim=1).all(dim=1)
        mean_hidden = None if self.mean_hidden is None else self.mean_hidden[rows]
        return Batch(self.data.features[rows].float(), state.float(), mean_hidden, safe, self.value[response].float())


def _split(data: RolloutData, config: CriticTrainingConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for training, validation and metrics; no prompt is in two of them."""
    prompts = torch.unique(data.prompt)
    kept = [max(1, round(share * len(prompts))) for share in (config.validation_share, config.held_out_share)]
    if len(prompts) <= sum(kept):
        raise ConfigurationError(
            f"rollouts of {len(prompts)} prompts cannot be split in three; sample for more prompts"
        )
    order = prompts[torch.randperm(len(prompts), generator=torch.Generator().manual_seed(config.seed))]
    validation, held_out = order[: kept[0]], order[kept[0] : sum(kept)]
    of_row = data.prompt[data.response]
    in_validation, in_held_out = torch.isin(of_row, validation), torch.isin(of_row, held_out)
    parts = (~(in_validation | in_held_out), in_validation, in_held_out)
    train, validate, test = (part.nonzero().squeeze(1) for part in parts)
    return train, validate, test


def _critic_config(data: RolloutData, config: CriticTrainingConfig, train: Tensor) -> CriticConfig:
    costs = []
    for index, cost in enumerate(config.costs):
        low, high = cost.range
        if cost.accounting == "cumulative":
            scales = (low, math.sqrt(low * high), high)
        else:
            spread = float(data.costs[train, index].double().std()) if len(train) > 1 else 1.0
            spread = spread if spread > 0 else 1.0
            scales = (spread / 4, spread, 4 * spread)
        costs.append(
            CriticCost(
                accounting=cost.accounting, lowest=low, highest=high, discount=cost.discount,
                reading=cost.reading, scales=tuple(sorted(set(scales))),
            )
        )  # fmt: skip
    return CriticConfig(
        hidden_size=data.features.shape[1],
        width=config.width,
        depth=config.depth,
        recalls=config.recalls,
        costs=tuple(costs),
    )


@torch.no_grad()
def _normalise(critic: LatentCritic, data: RolloutData, task: _Task, train: Tensor) -> None:
    """Mean and scale of the training rows' hidden states and values."""
    features = critic.inputs(data.features[train], None if task.mean_hidden is None else task.mean_hidden[train])
    critic.hidden_mean.copy_(features.mean(dim=0))
    critic.hidden_scale.copy_(features.std(dim=0, unbiased=False).clamp_min(1e-3))
    values = task.value[torch.unique(data.response[train])]
    critic.value_mean.copy_(values.mean())
    critic.value_scale.copy_(values.std(unbiased=False).clamp_min(1e-6))


def _train(critic: LatentCritic, task: _Task, train: Tensor, validation: Tensor, on_epoch: Progress | None) -> int:
    """Trains with early stopping and leaves the best weights in place; returns the epochs that ran."""
    config = task.config
    generator = torch.Generator().manual_seed(config.seed)
    checks = torch.Generator().manual_seed(config.seed + 1)  # the same draws at every check
    fixed = task.draw_limits(len(validation), checks), task.draw_measured(validation, checks)
    per_epoch = min(len(train), config.rows_per_epoch)
    steps = config.epochs * math.ceil(per_epoch / config.batch_size)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    best, best_loss, best_epoch = {}, math.inf, 0
    for epoch in range(1, config.epochs + 1):
        critic.train()
        drawn = train[torch.randperm(len(train), generator=generator)[:per_epoch]]
        for rows in torch.split(drawn, config.batch_size):
            limits, measured = task.draw_limits(len(rows), generator), task.draw_measured(rows, generator)
            loss = _loss(critic, task.batch(rows, limits, measured), value_weight=config.value_weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        loss_now = _mean_loss(critic, task, validation, *fixed)
        if not math.isfinite(loss_now):
            raise ConfigurationError(f"the critic's loss is {loss_now} in epoch {epoch}; lower the learning rate")
        if on_epoch:
            on_epoch(epoch, config.epochs, loss_now)
        if loss_now < best_loss:
            best, best_loss, best_epoch = {k: v.clone() for k, v in critic.state_dict().items()}, loss_now, epoch
        elif epoch - best_epoch >= config.patience:
            break
    critic.load_state_dict(best)
    critic.eval()
    return epoch


def _loss(critic: LatentCritic, batch: Batch, *, value_weight: float) -> Tensor:
    logit, predicted = critic(batch.hidden, batch.state, batch.mean_hidden)
    error: Tensor = ((predicted - batch.value) / critic.value_scale).square()
    error = (error * batch.safe).sum() / batch.safe.sum().clamp(min=1)
    return binary_cross_entropy_with_logits(logit, batch.safe.float()) + value_weight * error


@torch.no_grad()
def _mean_loss(critic: LatentCritic, task: _Task, rows: Tensor, limits: Tensor, measured: Tensor) -> float:
    critic.eval()
    total = 0.0
    for part in torch.split(torch.arange(len(rows)), BATCH):
        batch = task.batch(rows[part], limits[part], measured[part])
        total += len(part) * float(_loss(critic, batch, value_weight=task.config.value_weight))
    return total / len(rows)


@torch.no_grad()
def _evaluate(critic: LatentCritic, task: _Task, rows: Tensor) -> dict[str, Any]:
    """Figures on these rows, at the usual limits, with nothing measured since the start."""
    data, last = task.data, task.data.lengths - 1
    position, end = data.position[rows], last[data.response[rows]]
    places = {
        "first_block": position == end.minimum(torch.tensor(task.config.block_tokens - 1)),
        "half": position == end // 2,
        "end": position == end,
    }
    metrics: dict[str, Any] = {"positions": {}}
    for name, there in places.items():
        metrics["positions"][name] = _figures(*_predict(critic, task, rows[there]))
    metrics["along"] = []
    for share in SHARES:
        figures = _figures(*_predict(critic, task, rows[position == (end.double() * share).round().long()]))
        metrics["along"].append({"share": share, "auc": figures["auc"], "value_r2": figures["value_r2"]})
    generator = torch.Generator().manual_seed(task.config.seed + 2)
    limits, measured = task.draw_limits(len(rows), generator), task.draw_measured(rows, generator)
    probability, safe, predicted, value = _predict(critic, task, rows, limits, measured)
    metrics["any_budget"] = _figures(probability, safe, predicted, value)
    error = (predicted - value)[safe] if safe.any() else predicted - value
    metrics["value_error"] = float(error.double().square().mean().sqrt())
    metrics["limits"] = [cost.limit for cost in task.config.costs]
    metrics["block_tokens"] = task.config.block_tokens
    metrics["held_out_prompts"] = len(torch.unique(data.prompt[data.response[rows]]))
    return metrics


def _figures(probability: Tensor, safe: Tensor, predicted: Tensor, value: Tensor) -> dict[str, Any]:
    """AUC and calibration of the safety head, and R² of the value of answers that end safe; arguments (n,)."""
    return safety_metrics(probability, safe) | {"value_r2": explained(predicted[safe], value[safe])}


def _predict(
    critic: LatentCritic,
    task: _Task,
    rows: Tensor,
    limits: Tensor | None = None,
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probability of safe, whether it was, predicted value, and value, each of shape (n,).

    At the usual limits, with nothing measured since the start, unless told otherwise.
    """
    limits = task.usual_limits(len(rows)) if limits is None else limits
    measured = torch.zeros(len(rows), dtype=torch.long) if measured is None else measured
    parts = []
    for part in torch.split(torch.arange(len(rows)), BATCH):
        batch = task.batch(rows[part], limits[part], measured[part])
        logit, predicted = critic(batch.hidden, batch.state, batch.mean_hidden)
        parts.append((logit.sigmoid(), batch.safe, predicted, batch.value))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return columns[0], columns[1], columns[2], columns[3]
