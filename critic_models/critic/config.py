"""What a critic is, and what it belongs to: both stand in its config.json."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PreTrainedTokenizerBase

from critic_models.errors import MismatchError
from critic_models.safety.budget import Accounting, Reading


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CriticCost(_Record):
    """One cost that the critic predicts.

    Attributes:
        accounting: ``cumulative`` spends a budget; ``worst`` looks at the highest score so far.
        lowest: The least limit that the critic was trained for.
        highest: The greatest one. A ``worst`` critic serves a single limit: its state is +inf until something is
            measured and so cannot tell it the limit.
        discount: γ of the cumulative accounting.
        reading: ``any_time``: safe at every step; ``terminal``: at the last one. The same in the worst-case accounting.
        scales: Widths of safety state that the critic tells apart, increasing.
    """

    accounting: Accounting
    lowest: float
    highest: float
    discount: float = Field(default=1.0, gt=0.0, le=1.0)
    reading: Reading = "any_time"
    scales: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _range_means_something(self) -> "CriticCost":
        if self.lowest > self.highest:
            raise ValueError(f"budget range {self.lowest} to {self.highest} is upside down")
        if self.accounting == "cumulative" and self.lowest <= 0:
            raise ValueError(f"cumulative budgets start above 0, not at {self.lowest}")
        if self.accounting == "worst" and self.lowest != self.highest:
            raise ValueError(f"a worst-case critic serves one limit, not {self.lowest} to {self.highest}")
        if any(scale <= 0 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; each must be above 0")
        return self

    def serves(self, limit: float) -> bool:
        """Whether a limit lies in the range that the critic was trained for, up to rounding."""
        slack = 1e-6 * max(1.0, abs(self.lowest), abs(self.highest))
        return self.lowest - slack <= limit <= self.highest + slack

    def counts(self, *, accounting: str, discount: float, reading: str) -> bool:
        """Whether a budget counts cost as the critic learned it; the worst case knows no discount and one reading."""
        if accounting != self.accounting or accounting == "worst":
            return accounting == self.accounting
        return math.isclose(discount, self.discount, rel_tol=1e-9) and reading == self.reading


class CriticConfig(_Record):
    """The network.

    Attributes:
        hidden_size: H of the policy.
        width: Of the critic's own layers.
        depth: Residual blocks of the trunk.
        units: Steps per cost that the safety head places along the safety state.
        costs: C costs, in the order in which their states are given. A ``reading`` of all, as critics were saved with
            before each cost had its own, is that of every cost.
        recalls: It also reads the mean of the hidden states over the response so far. The last one knows the next
            token well and the earlier ones badly, in a small policy above all.
    """

    hidden_size: int = Field(ge=1)
    width: int = Field(default=256, ge=1)
    depth: int = Field(default=1, ge=0)
    units: int = Field(default=8, ge=1)
    costs: tuple[CriticCost, ...] = Field(min_length=1)
    recalls: bool = False

    @model_validator(mode="before")
    @classmethod
    def _one_reading_for_all(cls, given: Any) -> Any:
        return spread_reading(given)

    @property
    def n_costs(self) -> int:
        """C."""
        return len(self.costs)


class CriticBinding(_Record):
    """What the critic was trained for; another policy's hidden states mean nothing to it.

    Attributes:
        policy_id: The policy's name, hub id or folder.
        policy_revision: Its revision on the hub.
        layer: The layer that is read; -1 is the last, after the final norm.
        tokenizer_hash: See ``tokenizer_hash``.
        cost_models: Names of the costs.
        reward_model: Name of the reward.
        data_fingerprint: Of the rollouts, see ``RolloutData.fingerprint``.
        metrics: Held-out figures.
        command: What made it.
    """

    policy_id: str
    policy_revision: str | None = None
    layer: int = -1
    tokenizer_hash: str
    cost_models: tuple[str, ...] = ()
    reward_model: str | None = None
    data_fingerprint: str | None = None
    metrics: dict[str, Any] = {}
    command: str | None = None


def spread_reading(given: Any) -> Any:
    """Fields of a record with ``costs``, whose own ``reading``, if it has one, is given to every cost instead."""
    if not isinstance(given, dict) or "reading" not in given or not isinstance(given.get("costs"), list | tuple):
        return given
    reading = given["reading"]
    costs = [cost.model_dump() if isinstance(cost, BaseModel) else cost for cost in given["costs"]]
    rest = {name: value for name, value in given.items() if name != "reading"}
    return rest | {"costs": [{**cost, "reading": reading} if isinstance(cost, dict) else cost for cost in costs]}


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of every token and its id: two tokenizers with the same hash give ids the same meaning."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary, ensure_ascii=False).encode()).hexdigest()[:16]


def check_binding(
    config: CriticConfig,
    binding: CriticBinding,
    *,
    policy_id: str,
    hidden_size: int,
    tokenizer_hash: str,
    accounting: Sequence[str],
    limits: Sequence[float],
    discounts: Sequence[float],
    readings: Sequence[str],
    policy_revision: str | None = None,
    layer: int = -1,
) -> None:
    """Compares a critic with the guard it is to serve.

    Args:
        config: The critic's.
        binding: What it was trained for.
        policy_id: The guard's policy.
        hidden_size: H of that.
        tokenizer_hash: See ``tokenizer_hash``.
        accounting: Of each of the guard's budgets, as are the next three.
        limits: d.
        discounts: γ; the worst-case accounting has none.
        readings: ``any_time`` or ``terminal``; the same in the worst-case accounting.
        policy_revision: On the hub; None for the default branch. A critic that was saved without one fits any.
        layer: The layer that is read.

    Raises:
        MismatchError: Names both sides of everything that differs.
    """
    sides: list[tuple[str, object, object]] = [
        ("policy", binding.policy_id, policy_id),
        ("hidden size", config.hidden_size, hidden_size),
        ("layer", binding.layer, layer),
        ("tokenizer", binding.tokenizer_hash, tokenizer_hash),
        ("accounting", [cost.accounting for cost in config.costs], list(accounting)),
    ]
    if binding.policy_revision is not None:
        sides.append(("revision", binding.policy_revision, policy_revision))
    wrong = [f"{what}: critic {mine!r}, guard {theirs!r}" for what, mine, theirs in sides if mine != theirs]
    for cost, kind, limit, discount, reading in zip(
        config.costs, accounting, limits, discounts, readings, strict=False
    ):
        if not (math.isfinite(limit) and cost.serves(limit)):
            wrong.append(f"budget limit: critic {cost.lowest:g} to {cost.highest:g}, guard {limit:g}")
        if kind == cost.accounting and not cost.counts(accounting=kind, discount=discount, reading=reading):
            mine, theirs = f"{cost.discount:g}, {cost.reading}", f"{discount:g}, {reading}"
            wrong.append(f"discount and reading: critic {mine}, guard {theirs}")
    if wrong:
        raise MismatchError(
            f"this critic does not belong to this guard ({'; '.join(wrong)}). Use the policy and budget it was trained "
            "for, train one with `inferenceguard train-critic`, or go without: critic=False"
        )
