"""What can be set about the training of a critic."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from critic_models.critic.config import spread_reading
from critic_models.safety.budget import Accounting, Reading


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrainingCost(_Settings):
    """One cost, as the guard will count it.

    Attributes:
        accounting: ``cumulative`` or ``worst``.
        limit: The usual budget; metrics are given for it.
        discount: γ of the cumulative accounting.
        reading: ``any_time``: safe at every step; ``terminal``: at the last one.
        budget_range: Least and greatest budget to draw; a quarter to four times the limit if None. The worst-case
            accounting has one limit only.
    """

    accounting: Accounting = "cumulative"
    limit: float = 10.0
    discount: float = Field(default=0.999, gt=0.0, le=1.0)
    reading: Reading = "any_time"
    budget_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _range_means_something(self) -> "TrainingCost":
        if self.accounting == "cumulative" and self.limit <= 0:
            raise ValueError(f"cumulative limit is {self.limit}; it must be above 0")
        low, high = self.range
        if self.accounting == "cumulative" and not 0 < low <= self.limit <= high:
            raise ValueError(f"budget_range is {low} to {high}; it must hold the limit {self.limit} and start above 0")
        if self.accounting == "worst" and (low, high) != (self.limit, self.limit):
            raise ValueError("the worst-case accounting has one limit; leave budget_range out")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest budget."""
        if self.budget_range is not None:
            return self.budget_range
        return (self.limit / 4, self.limit * 4) if self.accounting == "cumulative" else (self.limit, self.limit)


class CriticTrainingConfig(_Settings):
    """How a critic is trained. The paper's lr 1e-5, batch 8, 50 epochs are for hidden states of 4096.

    Attributes:
        costs: One entry per cost, in the order of ``RolloutData.costs``. A ``reading`` beside them is that of all.
        block_tokens: Tokens of a block of the search; metrics are given after the first one.
        recalls: The critic also reads the mean of the hidden states over the response so far.
        width: Of the network.
        depth: Residual blocks.
        epochs: At most so many.
        rows_per_epoch: Rows drawn an epoch; neighbours are much alike, so all of them are not needed.
        batch_size: Rows a step.
        learning_rate: Of AdamW, falling to 0 along a cosine.
        weight_decay: Of AdamW.
        patience: Epochs without a better validation loss before it stops.
        value_weight: Weight of the value's squared error (of targets with variance 1) beside the cross-entropy.
        start_share: Share of rows whose safety state is that of the start, as it is until text is released.
        validation_share: Prompts kept for early stopping.
        held_out_share: Prompts kept for the metrics.
        seed: Decides the split, the draws and the first weights.
    """

    costs: tuple[TrainingCost, ...] = Field(default=(TrainingCost(),), min_length=1)
    block_tokens: int = Field(default=16, ge=1)
    recalls: bool = True
    width: int = Field(default=256, ge=1)
    depth: int = Field(default=1, ge=0)
    epochs: int = Field(default=30, ge=1)
    rows_per_epoch: int = Field(default=65_536, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    weight_decay: float = Field(default=1e-2, ge=0.0)
    patience: int = Field(default=5, ge=1)
    value_weight: float = Field(default=0.5, ge=0.0)
    start_share: float = Field(default=0.5, ge=0.0, le=1.0)
    validation_share: float = Field(default=0.1, gt=0.0, lt=0.5)
    held_out_share: float = Field(default=0.15, gt=0.0, lt=0.5)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_reading_for_all(cls, given: Any) -> Any:
        return spread_reading({"costs": (TrainingCost(),), **given} if isinstance(given, dict) else given)
