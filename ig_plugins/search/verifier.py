"""The verifier: the one place that decides whether text may leave under a budget.

Whatever releases text, bans a candidate or counts violations asks `may_leave`. A `Trail` holds the cost models' scores
from the start of an answer to some point of it, and the safety states that follow from them (paper, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from critic_models.errors import JudgeError
from critic_models.safety import SafetyBudget, advance, initial_state, is_safe


def may_leave(states: Tensor, budget: SafetyBudget, *, read: Tensor | None = None) -> Tensor:
    """The release rule: whether a cost model's states let a text leave.

    ``any_time``: every state is safe, the one that the text starts from included. ``terminal``: the last one is.

    Args:
        states: Shape (..., T), T >= 1: the state at the start, then after each checked point.
        budget: The cost model's budget.
        read: Shape (..., T), which of the states are real; the first one always is. All of them by default.

    Returns:
        bool, shape (...).
    """
    safe = is_safe(states, budget)
    if read is None:
        return safe.all(dim=-1) if budget.reading == "any_time" else safe[..., -1]
    if budget.reading == "any_time":
        return (safe | ~read).all(dim=-1)
    places = torch.arange(states.shape[-1]).expand(read.shape)
    last = places.masked_fill(~read, 0).amax(dim=-1, keepdim=True)
    return safe.gather(-1, last).squeeze(-1)


def costs_of(scores: Tensor, before: Tensor, budget: SafetyBudget, *, whole: bool) -> Tensor:
    """The costs c_t that a judge's scores stand for.

    A judge of texts scores the whole response so far. Where cost accumulates, a step costs what it adds, S_t - S_{t-1}:
    without discount the sum is the score of the whole response, however it was cut into steps.

    Args:
        scores: Shape (..., T), float64.
        before: Shape (...), the last score before these; 0 at the start.
        budget: Says how cost is counted.
        whole: The scores are of the whole response so far, rather than of single tokens.
    """
    if not whole or budget.accounting == "worst":
        return scores
    return scores - torch.cat([before.unsqueeze(-1), scores[..., :-1]], dim=-1)


@dataclass(frozen=True)
class Scored:
    """One cost model's scores of a stretch of an answer.

    Attributes:
        scores: Shape (P,), float64: one score a token, or one of the whole text so far.
        ends: At each score, how many tokens of the answer it speaks of; ascending. Those of a prefill are <= 0.
        whole: The scores are of the whole text so far.
    """

    scores: Tensor
    ends: tuple[int, ...]
    whole: bool


@dataclass(frozen=True)
class Track:
    """One cost model's checked points from the start of an answer.

    Attributes:
        ends: How many tokens of the answer each of the P points speaks of; <= 0 within a prefill.
        scores: Shape (P,), float64, as the judge gave them.
        costs: Shape (P,), float64.
        states: Shape (1 + P,), float64, the state at the start and after each point.
        whole: The scores are of the whole text so far.
    """

    ends: tuple[int, ...]
    scores: Tensor
    costs: Tensor
    states: Tensor
    whole: bool = False

    @classmethod
    def start(cls, budget: SafetyBudget) -> Track:
        """Before the first token."""
        nothing = torch.zeros(0, dtype=torch.float64)
        return cls((), nothing, nothing, initial_state(budget, (1,)))

    def extended(self, found: Scored, budget: SafetyBudget) -> Track:
        """With further points behind the last one."""
        costs = costs_of(found.scores, self.score, budget, whole=found.whole)
        states = advance(self.states[-1], costs, budget)
        if not torch.isfinite(states).all():
            raise JudgeError("the scores are too large to be added up; no text is released on such a verdict")
        return Track(
            ends=(*self.ends, *found.ends),
            scores=torch.cat([self.scores, found.scores]),
            costs=torch.cat([self.costs, costs]),
            states=torch.cat([self.states, states]),
            whole=self.whole or found.whole,
        )

    def up_to(self, tokens: int) -> Track:
        """The points within the first so many tokens of the answer."""
        count = sum(end <= tokens for end in self.ends)
        return Track(self.ends[:count], self.scores[:count], self.costs[:count], self.states[: count + 1], self.whole)

    def behind(self, border: Track, tokens: int, budget: SafetyBudget) -> Track:
        """The same with the points of a border, so many tokens on, that was judged since; tokens have their own."""
        if not self.whole or border.begins(self):
            return self
        later = [place for place, end in enumerate(self.ends) if end > tokens]
        ends = tuple(self.ends[place] for place in later)
        return border.extended(Scored(self.scores[later], ends, whole=True), budget)

    def begins(self, other: Track) -> bool:
        """Whether another track has these points first."""
        count = len(self.ends)
        return self.ends == other.ends[:count] and torch.equal(self.scores, other.scores[:count])

    def cut(self, found: Scored, budget: SafetyBudget, *, kept: int, end: int) -> Track:
        """Of an answer that was cut; see `Trail.cut`."""
        if not found.whole:
            return Track.start(budget).extended(found, budget)
        return self.up_to(kept).extended(Scored(found.scores, (end,), whole=True), budget)

    @property
    def score(self) -> Tensor:
        """The last score, shape (); 0 at the start."""
        return self.scores[-1] if len(self.scores) else torch.zeros((), dtype=torch.float64)

    @property
    def state(self) -> float:
        """Z at the end."""
        return float(self.states[-1])

    def spent(self, budget: SafetyBudget, *, after: int | None = None, up_to: int | None = None) -> float | None:
        """What points with after < end <= up_to cost: their sum, or the highest of them; None where there are none."""
        inside = self._inside(after, up_to)
        if not inside:
            return None
        part = self.costs[inside]
        return float(part.amax() if budget.accounting == "worst" else part.sum())

    def state_within(self, *, after: int, up_to: int | None) -> float | None:
        """Z after the last point with after < end <= up_to; None where there is none."""
        inside = self._inside(after, up_to)
        return float(self.states[1 + inside[-1]]) if inside else None

    def _inside(self, after: int | None, up_to: int | None) -> list[int]:
        """The places of the points with after < end <= up_to."""
        return [
            place
            for place, end in enumerate(self.ends)
            if (after is None or end > after) and (up_to is None or end <= up_to)
        ]


@dataclass(frozen=True)
class Trail:
    """All cost models' checked points from the start of an answer to some point of it.

    Attributes:
        tracks: One a cost model.
        budgets: Likewise.
    """

    tracks: tuple[Track, ...]
    budgets: tuple[SafetyBudget, ...]

    @classmethod
    def start(cls, budgets: Sequence[SafetyBudget]) -> Trail:
        """Before the first token: nothing was spent."""
        return cls(tuple(Track.start(budget) for budget in budgets), tuple(budgets))

    @classmethod
    def of_costs(cls, costs: Tensor, budgets: Sequence[SafetyBudget]) -> Trail:
        """Of an answer whose costs are known, shape (T, C): one a token and cost model."""
        ends = tuple(range(1, len(costs) + 1))
        return cls.start(budgets).extended([Scored(mine.double(), ends, whole=False) for mine in costs.unbind(dim=1)])

    def extended(self, found: Sequence[Scored]) -> Trail:
        """With the cost models' scores of the text behind the last point.

        Raises:
            JudgeError: A state is not finite.
        """
        pairs = zip(self.tracks, found, self.budgets, strict=True)
        return Trail(tuple(track.extended(scored, budget) for track, scored, budget in pairs), self.budgets)

    def up_to(self, tokens: int) -> Trail:
        """The points within the first so many tokens of the answer."""
        return Trail(tuple(track.up_to(tokens) for track in self.tracks), self.budgets)

    def behind(self, border: Trail, tokens: int) -> Trail:
        """The same with the later scores of a border that lies on the way, so many tokens on."""
        triples = zip(self.tracks, border.tracks, self.budgets, strict=True)
        return Trail(tuple(mine.behind(other, tokens, budget) for mine, other, budget in triples), self.budgets)

    def cut(self, found: Sequence[Scored], *, kept: int, end: int) -> Trail:
        """Of an answer that was cut on the way and read again from its start.

        Judges of tokens have read all tokens that are left. What judges of texts said of its beginnings still counts.

        Args:
            found: The cost models' scores of what is left.
            kept: Tokens of this way that it begins with.
            end: Tokens of this way up to its end.
        """
        triples = zip(self.tracks, found, self.budgets, strict=True)
        return Trail(tuple(mine.cut(new, budget, kept=kept, end=end) for mine, new, budget in triples), self.budgets)

    def may_leave(self, cost: int | None = None) -> bool:
        """Whether the text up to here may leave, for all cost models, or for one of them."""
        chosen = range(len(self.tracks)) if cost is None else [cost]
        return all(bool(may_leave(self.tracks[c].states, self.budgets[c])) for c in chosen)

    @property
    def state(self) -> tuple[float, ...]:
        """Z at the end, one a cost model."""
        return tuple(track.state for track in self.tracks)

    def spent(self) -> list[float | None]:
        """Per cost model what it all cost, prefill included: the sum, undiscounted, or the highest score.

        Of nothing the sum is 0, and there is no highest score.
        """
        pairs = zip(self.tracks, self.budgets, strict=True)
        nothing = {"cumulative": 0.0, "worst": None}
        return [
            nothing[budget.accounting] if (spent := track.spent(budget)) is None else spent for track, budget in pairs
        ]
