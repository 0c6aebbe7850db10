"""The judges at work on a batch of prompts: they follow the lanes and keep every candidate's figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from critic_models.safety import Reading
from ig_plugins.research.methods.context import Context, Judges
from ig_plugins.search import Capacity, Request
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.text import LaneText
from ig_plugins.search.verifier import Trail


@dataclass(eq=False)
class Candidate:
    """A response so far, with what the cost and reward models say of it.

    Attributes:
        trail: The cost models' scores from its start.
        ids: Its tokens.
        reward: Score of the text so far; None without a reward model.
        finished: Ended with a stop token.
        ended: Finished, or as long as an answer may be.
        hidden: Shape (H,), the policy's state at its end.
        mean_hidden: Shape (H,), the mean of its states over the response so far.
    """

    trail: Trail
    ids: tuple[int, ...] = ()
    reward: float | None = None
    finished: bool = False
    ended: bool = False
    hidden: Tensor | None = field(default=None, repr=False)
    mean_hidden: Tensor | None = field(default=None, repr=False)

    @property
    def states(self) -> tuple[float, ...]:
        """The safety state z at its end, one a cost model."""
        return self.trail.state

    @property
    def safe(self) -> bool:
        """Safe for all cost models, each in its budget's reading."""
        return self.trail.may_leave()

    @property
    def safe_throughout(self) -> bool:
        """Safe for all cost models at every checked step."""
        return self._safe("any_time")

    @property
    def safe_at_end(self) -> bool:
        """Safe for all cost models at the last token."""
        return self._safe("terminal")

    @property
    def spent(self) -> float:
        """The cost so far by the first cost model: γ-discounted sum (cumulative) or highest score (worst)."""
        track, budget = self.trail.tracks[0], self.trail.budgets[0]
        # The recursion's closed form, solved for the discounted sum; the highest score where worst counts.
        scale = budget.discount ** len(track.ends) if budget.accounting == "cumulative" else 1.0
        return budget.limit - scale * track.state

    def _safe(self, reading: Reading) -> bool:
        budgets = tuple(budget.model_copy(update={"reading": reading}) for budget in self.trail.budgets)
        return replace(self.trail, budgets=budgets).may_leave()


class CandidateScorer:
    """Cost and reward models that follow the lanes of a batch of prompts, and the beams that they stand at.

    Args:
        context: Gives the judges.
        capacity: The largest block there will be.
        judged: Without, nobody is asked, and candidates are tokens alone.
    """

    def __init__(self, context: Context, *, capacity: Capacity, judged: bool = True) -> None:
        self._context = context
        self._judges: Judges = context.judges(capacity) if judged else Judges((), None)
        self.beams: list[list[Candidate]] = []
        self._lanes: list[dict[int, Candidate]] = []

    def add_rows(self, requests: Sequence[Request]) -> None:
        """New rows, each with the empty response as its only beam."""
        for session in self.sessions:
            session.add_rows(requests)
        self.beams += [[Candidate(Trail.start(self._context.budgets))] for _ in requests]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""
        for session in self.sessions:
            session.keep_rows(rows)
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
            parent = parents[row][lane]
            ids = (*parent.ids, *tokens[row, lane, : int(lengths[row, lane])].tolist())
            grown[row][lane] = Candidate(parent.trail, ids=ids, finished=bool(finished[row, lane]))
            grown[row][lane].ended = grown[row][lane].finished or len(ids) >= self._context.search.max_new_tokens

        def text_of(row: int, lane: int) -> LaneText:
            return LaneText(self._context.policy.detokenizer.text(grown[row][lane].ids), grown[row][lane].finished)

        costs = [(session, session.score(beams, tokens, lengths, text_of)) for session in self._judges.costs]
        ranked = self._judges.reward
        reward = ranked.score(beams, tokens, lengths, text_of) if ranked else None
        for row, mine in enumerate(grown):
            for lane, candidate in mine.items():
                last = len(candidate.ids)
                found = [scores.of(row, lane, up_to=last, whole=session.reads_text) for session, scores in costs]
                if costs:
                    candidate.trail = candidate.trail.extended(found)
                if reward is not None:
                    candidate.reward = float(reward.values[row, lane, int(reward.lengths[row, lane]) - 1])
        self._lanes = [{**stays, **mine} for stays, mine in zip(parents, grown, strict=True)]
        return grown

    def advance(self, kept: Tensor) -> None:
        """Shape (B, K): these lanes are what the next block continues, -1 for none."""
        for session in self.sessions:
            session.advance(kept)
        self.beams = [
            [lanes[lane] for lane in row if lane >= 0] for lanes, row in zip(self._lanes, kept.tolist(), strict=True)
        ]

    @property
    def sessions(self) -> list[JudgeSession]:
        """The judges at work."""
        return self._judges.all
