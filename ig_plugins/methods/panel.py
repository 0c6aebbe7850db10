"""The judges at work on a batch of prompts: they follow the lanes and keep every candidate's figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ig_plugins.methods.bench import Bench, Judges
from ig_plugins.safety import SafetyBudget, initial_state, is_safe
from ig_plugins.search import Capacity, Request
from ig_plugins.search.follow import Follower, LaneText, Scores, check_finite
from ig_plugins.search.scoring import track


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
    """Cost and reward models that follow the lanes of a batch of prompts, and the beams that they stand at.

    Args:
        bench: Gives the judges.
        capacity: The largest block there will be.
        judged: Without, nobody is asked, and candidates are tokens alone.
    """

    def __init__(self, bench: Bench, *, capacity: Capacity, judged: bool = True) -> None:
        self._bench = bench
        self._judges: Judges = bench.judges(capacity) if judged else Judges((), None)
        self.beams: list[list[Candidate]] = []
        self._lanes: list[dict[int, Candidate]] = []

    def admit(self, requests: Sequence[Request]) -> None:
        """New rows, each with the empty response as its only beam."""
        for follower in self.followers:
            follower.admit(requests)
        states = tuple(float(initial_state(budget)) for budget in self._bench.budgets)
        self.beams += [[Candidate(states=states, sound=(True,) * len(states))] for _ in requests]

    def retain(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""
        for follower in self.followers:
            follower.retain(rows)
        self.beams = [self.beams[row] for row in rows]

    @torch.inference_mode()
    def judge(self, beams: Tensor, tokens: Tensor, lengths: Tensor, finished: Tensor) -> list[dict[int, Candidate]]:
        """Scores the lanes of a block.

        Args:
            beams: Shape (B, L), the beam of each lane, -1 for no lane.
            tokens: Shape (B, L, T).
            lengths: Shape (B, L); a lane of length 0 stays where its beam is and is not judged.
            finished: Shape (B, L), the lane's last token is a stop token.

        Returns:
            Per row the judged lanes.

        Raises:
            JudgeError: A score is NaN or infinite.
        """
        parents = [
            {lane: mine[beam] for lane, beam in enumerate(row) if beam >= 0}
            for mine, row in zip(self.beams, beams.tolist(), strict=True)
        ]
        grown: list[dict[int, Candidate]] = [{} for _ in parents]
        for row, lane in (lengths > 0).nonzero().tolist():
            ids = (*parents[row][lane].ids, *tokens[row, lane, : int(lengths[row, lane])].tolist())
            grown[row][lane] = Candidate(ids=ids, finished=bool(finished[row, lane]))
            grown[row][lane].ended = grown[row][lane].finished or len(ids) >= self._bench.search.max_new_tokens

        def text_of(row: int, lane: int) -> LaneText:
            return LaneText(self._bench.policy.detokenizer.text(grown[row][lane].ids), grown[row][lane].finished)

        for index, follower in enumerate(self._judges.costs):
            scores = follower.measure(beams, tokens, lengths, text_of)
            check_finite(scores, follower.judge.name)
            self._spend(grown, parents, index, scores)
        if self._judges.reward is not None:
            scores = self._judges.reward.measure(beams, tokens, lengths, text_of)
            check_finite(scores, self._judges.reward.judge.name)
            ends = scores.values.gather(-1, (scores.lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1).tolist()
            for row, mine in enumerate(grown):
                for lane, candidate in mine.items():
                    candidate.reward = ends[row][lane]
        self._lanes = [{**stays, **mine} for stays, mine in zip(parents, grown, strict=True)]
        return grown

    def commit(self, kept: Tensor) -> None:
        """Shape (B, K): these lanes are what the next block continues, -1 for none."""
        for follower in self.followers:
            follower.commit(kept)
        self.beams = [
            [lanes[lane] for lane in row if lane >= 0] for lanes, row in zip(self._lanes, kept.tolist(), strict=True)
        ]

    @property
    def followers(self) -> list[Follower]:
        """The judges at work."""
        return self._judges.all

    def _spend(
        self, grown: list[dict[int, Candidate]], parents: list[dict[int, Candidate]], index: int, scores: Scores
    ) -> None:
        """Enters one cost model's scores of the block into the candidates."""
        budget = self._bench.budgets[index]
        any_time = budget.model_copy(update={"reading": "any_time"})
        before = torch.zeros(scores.lengths.shape, dtype=torch.float64)
        for row, mine in enumerate(grown):
            for lane in mine:
                before[row, lane] = parents[row][lane].states[index]
        found = track(scores, before, [any_time] * len(grown))
        states, sound, steps = found.state.tolist(), found.safe.tolist(), scores.lengths.tolist()
        for row, mine in enumerate(grown):
            for lane, candidate in mine.items():
                parent, state = parents[row][lane], states[row][lane]
                candidate.states = (*candidate.states, state)
                candidate.sound = (*candidate.sound, parent.sound[index] and sound[row][lane])
                if index == 0:
                    candidate.steps = parent.steps + steps[row][lane]
                    # The recursion's closed form, solved for the discounted sum; the highest score where worst counts.
                    scale = budget.discount**candidate.steps if budget.accounting == "cumulative" else 1.0
                    candidate.spent = budget.limit - scale * state


def _safe(state: float, budget: SafetyBudget) -> bool:
    return bool(is_safe(torch.tensor(state, dtype=torch.float64), budget))
