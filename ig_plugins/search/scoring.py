"""How candidates are judged: by the cost and reward models themselves, or foreseen by a critic.

The score of a candidate, higher is better (paper, section 4):

| candidate         | with critic                  | without critic                   |
|-------------------|------------------------------|----------------------------------|
| finished, safe    | γ^T r(x, y)                  | γ^T r(x, y)                      |
| open, judged safe | the critic's value, f1 > 0.5 | r of the partial text, z is safe |
| anything else     | never kept                   | never kept                       |

In both a finished candidate is safe only if the cost models say so for exactly its tokens: the verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from critic_models.errors import JudgeError
from ig_plugins.safety import SafetyBudget, advance, initial_state, is_safe
from ig_plugins.search.follow import Follower, Scores
from ig_plugins.search.lanes import Lanes, Row
from ig_plugins.search.path import Measure, Step
from ig_plugins.search.request import Request


class Judgement(NamedTuple):
    """What scoring says of every lane of the open block.

    Attributes:
        safe: Shape (B, L): finished lanes that the verifier passed, open lanes that may go on.
        score: Shape (B, L), only meaningful where safe.
        calm: Shape (B, L), safe lanes of which the critic is sure; an adaptive search goes on with few lanes.
        rewards: The reward of finished safe lanes, by (row, lane).
        measures: Per (row, lane) what the cost models measured on the way to the lane's end: one entry for every
            step after the last measured one, the open block itself included. Lanes not measured are missing.
    """

    safe: Tensor
    score: Tensor
    calm: Tensor
    rewards: dict[tuple[int, int], float]
    measures: dict[tuple[int, int], list[Measure | None]]


class Scoring(Protocol):
    """Judges the open block.

    Attributes:
        followers: All judges, for their usage counts.
        foresees: Whether there is a critic, without which no search can be adaptive.
        optimism: By how much an open candidate may end better than its score says; infinite where nobody knows.
    """

    followers: Sequence[Follower]
    foresees: bool
    optimism: float

    def admit(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Measure]:
        """New rows; returns what their prefills cost. ``beams`` counts the beams of the rows already there."""

    def retain(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""

    def judge(self, lanes: Lanes) -> Judgement:
        """Judges every sampled lane."""

    def commit(self, lanes: Lanes, kept: Tensor) -> None:
        """Shape (B, K): the lanes that are the beams from now on."""

    def release(self, rows: Sequence[Row], steps: Sequence[Step]) -> list[bool]:
        """Whether the text of each row up to the given step may leave; measures it where it was not."""


@dataclass(frozen=True)
class Track:
    """One cost model's verdict on every lane: states (B, L), safety (B, L) and what was spent (B, L)."""

    state: Tensor
    safe: Tensor
    spent: Tensor


def track(scores: Scores, before: Tensor, budgets: Sequence[SafetyBudget]) -> Track:
    """Advances the safety state of every lane through its scores.

    Args:
        scores: Of one cost model.
        before: Shape (B, L), float64, the states before the block.
        budgets: This cost model's budget, one a row.
    """
    lengths = scores.lengths
    last = (lengths - 1).clamp(min=0).unsqueeze(-1)
    inside = torch.arange(scores.values.shape[-1]) < lengths.unsqueeze(-1)
    state, safe, spent = before.clone(), torch.zeros_like(before, dtype=torch.bool), torch.zeros_like(before)
    for budget in set(budgets):
        rows = [row for row, mine in enumerate(budgets) if mine == budget]
        states = advance(before[rows], scores.values[rows], budget)  # (b, L, T)
        ends = torch.where(lengths[rows] > 0, states.gather(-1, last[rows]).squeeze(-1), before[rows])
        ok = is_safe(states, budget) | ~inside[rows]
        everywhere = ok.all(dim=-1) & is_safe(before[rows], budget)
        state[rows] = ends
        safe[rows] = everywhere if budget.reading == "any_time" else is_safe(ends, budget)
        values = scores.values[rows].to(torch.float64)
        if budget.accounting == "worst":
            spent[rows] = values.masked_fill(~inside[rows], -torch.inf).amax(dim=-1)
        else:
            spent[rows] = (values * inside[rows]).sum(dim=-1)
    return Track(state, safe, spent)


def discounted(reward: float, length: int, budgets: Sequence[SafetyBudget]) -> float:
    """γ^T r with the discount of the cumulative budgets (the strongest, if they differ)."""
    gammas = [budget.discount for budget in budgets if budget.accounting == "cumulative"]
    return reward * min(gammas, default=1.0) ** length


def starting_measure(request: Request) -> Measure:
    """The state before the first token."""
    states = tuple(float(initial_state(budget)) for budget in request.budgets)
    nothing = tuple(0.0 if budget.accounting == "cumulative" else -torch.inf for budget in request.budgets)
    return Measure(spent=nothing, state=states)


def state_of(steps: Sequence[Step]) -> Tensor:
    """The last measured states on the way to some steps, shape (len(steps), C), float64."""
    return torch.tensor([last_measured(step).state for step in steps], dtype=torch.float64)


def last_measured(step: Step) -> Measure:
    """What the cost models said last on the way to a step."""
    while step.measure is None and step.parent is not None:
        step = step.parent
    if step.measure is None:
        raise JudgeError("no safety state was ever measured on this path; the prompt's step must carry one")
    return step.measure


@dataclass(frozen=True)
class Trail:
    """The scores and states of one lane from a measured point on, one tensor (T,) a cost model.

    Judges of texts give one score for the whole stretch, T = 1.
    """

    values: Sequence[Tensor]
    states: Sequence[Tensor]
    before: Measure
    budgets: Sequence[SafetyBudget]

    @classmethod
    def follow(cls, values: Sequence[Tensor], before: Measure, budgets: Sequence[SafetyBudget]) -> Trail:
        """Advances every cost model's state through its scores."""
        starts = [torch.tensor(z, dtype=torch.float64) for z in before.state]
        states = [advance(z, v, b) for z, v, b in zip(starts, values, budgets, strict=True)]
        return cls(values, states, before, budgets)

    def safe(self) -> bool:
        """Whether every cost model accepts the stretch, under its budget's reading."""
        for z, states, budget in zip(self.before.state, self.states, self.budgets, strict=True):
            seen = torch.cat([torch.tensor([z], dtype=torch.float64), states])
            ok = is_safe(seen if budget.reading == "any_time" else seen[-1:], budget)
            if not bool(ok.all()):
                return False
        return True

    def measures(self, bounds: Sequence[int]) -> list[Measure | None]:
        """The measures at the ends of the steps within the stretch.

        Args:
            bounds: Where each step ends, in tokens; ascending. A judge of texts knows only the last one, and then
                the others are None.
        """
        if any(len(values) < bounds[-1] for values in self.values):
            return [None] * (len(bounds) - 1) + [self._measure(0, bounds[-1])]
        return [self._measure(low, high) for low, high in zip([0, *bounds[:-1]], bounds, strict=True)]

    def _measure(self, low: int, high: int) -> Measure:
        spent, state = [], []
        for values, states, budget in zip(self.values, self.states, self.budgets, strict=True):
            part = values[low:high].double()
            spent.append(float(part.amax() if budget.accounting == "worst" else part.sum()))
            state.append(float(states[min(high, len(states)) - 1]))
        return Measure(spent=tuple(spent), state=tuple(state))
