"""The judges at work on one prompt: they follow the lanes and keep every candidate's figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ig_plugins.errors import JudgeError
from ig_plugins.methods.bench import Bench, Judges
from ig_plugins.safety import SafetyBudget, advance, initial_state, is_safe
from ig_plugins.search import Capacity, Request
from ig_plugins.search.follow import LaneText, Scores


@dataclass(eq=False)
class Candidate:
    """A response so far, with what the cost and reward models say of it.

    Attributes:
        ids: Its tokens.
        states: The safety state z at its end, one a cost model.
        sound: Safe at every checked step so far, one a cost model.
        spent: The cost so far by the first cost model: γ-discounted sum (cumulative) or highest score (worst).
        steps: How many costs that took: tokens, or blocks for judges of texts.
        reward: Score of the text so far; None without a reward model.
        finished: Ended with a stop token.
        ended: Finished, or as long as an answer may be.
        hidden: Shape (H,), the policy's state at its end.
        said: Shape (H,), the mean of its states over the response so far.
    """

    ids: tuple[int, ...] = ()
    states: tuple[float, ...] = ()
    sound: tuple[bool, ...] = ()
    spent: float = 0.0
    steps: int = 0
    reward: float | None = None
    finished: bool = False
    ended: bool = False
    hidden: Tensor | None = field(default=None, repr=False)
    said: Tensor | None = field(default=None, repr=False)

    def safe(self, budgets: Sequence[SafetyBudget]) -> bool:
        """Safe for all cost models, each in its budget's reading."""
        return all(
            sound if budget.reading == "any_time" else _safe(z, budget)
            for z, sound, budget in zip(self.states, self.sound, budgets, strict=True)
        )

    def safe_at_end(self, budgets: Sequence[SafetyBudget]) -> bool:
        """Safe for all cost models at the last token."""
        return all(_safe(z, budget) for z, budget in zip(self.states, budgets, strict=True))


class Panel:
    """Cost and reward models that follow the lanes of one prompt.

    Args:
        bench: Gives the judges.
        request: The prompt.
        capacity: The largest block there will be.
    """

    def __init__(self, bench: Bench, request: Request, *, capacity: Capacity) -> None:
        self._bench = bench
        self._judges: Judges = bench.judges(capacity)
        for follower in self._judges.all:
            follower.admit([request])

    def start(self) -> Candidate:
        """The empty response."""
        states = tuple(float(initial_state(budget)) for budget in self._bench.budgets)
        return Candidate(states=states, sound=(True,) * len(states))

    @torch.inference_mode()
    def judge(
        self, parents: Sequence[Candidate], tokens: Tensor, lengths: Tensor, finished: Tensor, *, beams: Tensor
    ) -> list[Candidate]:
        """Scores the L lanes of a block.

        Args:
            parents: The response that each lane continues.
            tokens: Shape (1, L, T).
            lengths: Shape (1, L), at least 1 each.
            finished: Shape (1, L), the lane's last token is a stop token.
            beams: Shape (1, L), the beam of each lane.

        Raises:
            JudgeError: A score is NaN or infinite.
        """
        grown = [
            Candidate(ids=(*parent.ids, *tokens[0, lane, : int(lengths[0, lane])].tolist()), finished=bool(ends))
            for lane, (parent, ends) in enumerate(zip(parents, finished[0].tolist(), strict=True))
        ]

        def text_of(row: int, lane: int) -> LaneText:
            return LaneText(self._bench.policy.detokenizer.text(grown[lane].ids), grown[lane].finished)

        for index, (follower, budget) in enumerate(zip(self._judges.costs, self._bench.budgets, strict=True)):
            scores = follower.measure(beams, tokens, lengths, text_of)
            for lane, (candidate, parent) in enumerate(zip(grown, parents, strict=True)):
                _spend(candidate, parent, index, _lane(scores, lane, follower.judge.name), budget)
        if self._judges.reward is not None:
            scores = self._judges.reward.measure(beams, tokens, lengths, text_of)
            for lane, candidate in enumerate(grown):
                candidate.reward = float(_lane(scores, lane, self._judges.reward.judge.name)[-1])
        return grown

    def commit(self, kept: Sequence[int]) -> None:
        """These lanes are what the next block continues."""
        for follower in self._judges.all:
            follower.commit(torch.tensor([list(kept)], dtype=torch.long))

    def rollback(self) -> None:
        """Forgets the open block."""
        for follower in self._judges.all:
            follower.rollback()

    @property
    def calls(self) -> int:
        """Calls of judges so far."""
        return sum(sum(judge.calls) for judge in self._judges.all)

    @property
    def tokens(self) -> int:
        """Tokens that the judges read so far."""
        return sum(sum(judge.tokens) for judge in self._judges.all)


def _safe(state: float, budget: SafetyBudget) -> bool:
    return bool(is_safe(torch.tensor(state, dtype=torch.float64), budget))


def _lane(scores: Scores, lane: int, name: str) -> Tensor:
    values = scores.values[0, lane, : int(scores.lengths[0, lane])]
    if not bool(torch.isfinite(values).all()):
        raise JudgeError(f"{name} returned NaN or an infinite score; nothing can be ranked by it")
    return values


def _spend(candidate: Candidate, parent: Candidate, index: int, values: Tensor, budget: SafetyBudget) -> None:
    """Enters one cost model's scores of the block into a candidate."""
    states = advance(torch.tensor(parent.states[index], dtype=torch.float64), values, budget)
    last = float(states[-1])
    candidate.states = (*candidate.states, last)
    candidate.sound = (*candidate.sound, parent.sound[index] and bool(is_safe(states, budget).all()))
    if index == 0:
        candidate.steps = parent.steps + len(values)
        # The closed form of the recursion, solved for the discounted sum; the highest score in the worst accounting.
        scale = budget.discount**candidate.steps if budget.accounting == "cumulative" else 1.0
        candidate.spent = budget.limit - scale * last
