"""What every method is given: the same policy, the same judges, the same settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from critic_models.critic import LatentCritic
from critic_models.errors import ConfigurationError
from critic_models.safety import SafetyBudget
from ig_plugins.guard import InferenceGuard
from ig_plugins.search import Capacity, Policy, Request, SearchConfig
from ig_plugins.search.scoring.judge_session import JudgeSession


@dataclass(frozen=True)
class Judges:
    """Sessions of one search's judges: the cost models in order, and the reward model if there is one."""

    costs: Sequence[JudgeSession]
    reward: JudgeSession | None

    @property
    def all(self) -> list[JudgeSession]:
        """Every session."""
        return [*self.costs, *([self.reward] if self.reward else [])]


@dataclass(frozen=True, eq=False)
class Context:
    """What a method works with.

    Attributes:
        guard: Gives policy, judges, budgets and search settings, and is itself one of the methods.
        multiplier: λ of the Lagrangian rules.
        penalty: n, what an unsafe candidate scores, negated.
        weight: w, what ARGS gives the reward against the logit.
        training_prompts: For methods that train a value network on the policy's own answers; never evaluated on.
        seed: Of that training.
        progress: Told (stage, done, of) while that takes its time.
        values: The value networks that were trained, by what they predict.
        sampled: The answers that they were trained on.
    """

    guard: InferenceGuard
    multiplier: float = 5.0
    penalty: float = 1e4
    weight: float = 2.5
    training_prompts: tuple[str, ...] = ()
    seed: int = 0
    progress: Callable[[str, int, int], None] = lambda stage, done, of: None
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    sampled: list[Any] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("multiplier", self.multiplier), ("penalty", self.penalty), ("weight", self.weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} is {value}; give 0 or a positive, finite number")

    @property
    def policy(self) -> Policy:
        """The unguarded model."""
        return self.guard.components.policy

    @property
    def search(self) -> SearchConfig:
        """N, K, d, D, M and how tokens are drawn."""
        return self.guard.search

    @property
    def budgets(self) -> tuple[SafetyBudget, ...]:
        """One a cost model."""
        return self.guard.options.budgets

    @property
    def critic(self) -> LatentCritic | None:
        """The guard's critic."""
        return self.guard.components.critic

    def with_candidates(self, candidates: int) -> Context:
        """The same with N lanes, and N/4 beams as published."""
        return replace(self, guard=self.guard.with_options(candidates=candidates, beams=max(1, candidates // 4)))

    def with_critic(self, critic: LatentCritic | None) -> Context:
        """The same with another critic, or none."""
        parts = replace(self.guard.components, critic=critic)
        return replace(self, guard=InferenceGuard(parts, self.guard.options))

    def request(self, prompt: str, *, seed: int) -> Request:
        """A prompt as the search reads it."""
        return self.guard.request(prompt, seed=self.guard.numbered(seed))

    def judges(self, capacity: Capacity) -> Judges:
        """Fresh sessions: on the token tree where a judge reads the policy's tokens, by text otherwise."""
        return Judges(*self.guard.components.judge_sessions(capacity))
