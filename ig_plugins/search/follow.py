"""Judges that follow the search: on the token tree where they share the policy's tokenizer, else by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from critic_models.errors import JudgeError
from critic_models.judges import Judge, TokenJudge
from ig_plugins.chat.rendering import inside
from ig_plugins.engine import TreeModel, TreeSession
from ig_plugins.search.request import Request


class Scores(NamedTuple):
    """What a judge said of every lane.

    Attributes:
        values: Shape (B, L, T), float32 on the CPU; the score of each token, or T = 1 score a block.
        lengths: Shape (B, L), how many of the T entries are real; 0 for lanes that were not judged.
    """

    values: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class LaneText:
    """A lane's response so far, for judges that read text."""

    text: str
    finished: bool


TextOf = Callable[[int, int], LaneText]


@dataclass(frozen=True)
class Ask:
    """What a judge of texts is asked: texts, and for each of them the request that it belongs to."""

    judge: Judge
    requests: Sequence[Request]
    prompts: Sequence[str]
    responses: Sequence[str]
    finished: Sequence[bool]

    def __call__(self) -> list[float]:
        """Asks."""
        return self.judge.score(self.prompts, self.responses, finished=self.finished)


Call = Callable[[Ask], list[float]]


def check_finite(scores: Scores, name: str) -> None:
    """Refuses scores that say nothing.

    Raises:
        JudgeError: A score that counts is NaN or infinite.
    """
    steps = torch.arange(scores.values.shape[-1])
    valid = steps < scores.lengths.unsqueeze(-1)
    if not torch.isfinite(scores.values[valid]).all():
        raise JudgeError(f"{name} returned NaN or an infinite score; no text is released on such a verdict")


class Follower(Protocol):
    """One judge that keeps up with the search, block by block.

    Attributes:
        calls: Per row of the search, how often the judge was asked since ``admit``.
        tokens: What it read, likewise.
        rereads: It reads the whole text at every call, so that it is nowhere to be moved on.
    """

    rereads: bool
    calls: list[int]
    tokens: list[int]

    @property
    def judge(self) -> Judge:
        """Who is asked."""

    def admit(self, requests: Sequence[Request]) -> None:
        """New rows at the end; prefilled assistant text is read at once."""

    def retain(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""

    def measure(self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf) -> Scores:
        """Scores the open block.

        Args:
            parents: Shape (B, L), the beam that each lane continues, -1 for no lane.
            tokens: Shape (B, L, T).
            lengths: Shape (B, L); lanes of length 0 are not judged.
            text_of: (row, lane) to the lane's text, asked only by judges that read text.
        """

    def commit(self, lanes: Tensor) -> None:
        """Shape (B, K): these lanes are the beams now, -1 for none."""

    def rollback(self) -> None:
        """Forgets the open block."""

    def reread(self, row: int, request: Request, text: str) -> Tensor:
        """Scores (T,) of an answer that no lane stands for, read from scratch; T = 1 for judges of texts.

        Raises:
            JudgeError: A score is not finite.
        """


class TreeFollower:
    """A token judge on its own token tree: nothing is read twice, every token gets its score."""

    rereads = False

    def __init__(self, judge: TokenJudge, tree: TreeModel, *, lanes: int, block: int, max_new: int) -> None:
        self.judge, self.tree = judge, tree
        self._size = {"lanes": lanes, "block": block, "max_new": max_new}
        self._session: TreeSession | None = None
        self.calls: list[int] = []
        self.tokens: list[int] = []

    def admit(self, requests: Sequence[Request]) -> None:
        """See `Follower`."""
        prompts = [request.judge_ids for request in requests]
        if self._session is None or self._session.rows == 0:
            self._session = self.tree.plant(prompts, **self._size)
        else:
            self._session.admit(prompts)
        self.calls += [1] * len(requests)
        self.tokens += [len(prompt) for prompt in prompts]

    def retain(self, rows: Sequence[int]) -> None:
        """See `Follower`."""
        self._open().retain(rows)
        self.calls = [self.calls[row] for row in rows]
        self.tokens = [self.tokens[row] for row in rows]

    def measure(self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf) -> Scores:
        """See `Follower`."""
        session = self._open()
        session.branch(parents)
        hidden = session.feed(tokens, lengths)  # (B, L, T, H)
        values = self.judge.score_hidden(hidden).float().cpu()
        for row, read in enumerate(lengths.sum(dim=1).tolist()):
            self.calls[row] += 1 if read else 0
            self.tokens[row] += read
        return Scores(values, lengths.cpu())

    def commit(self, lanes: Tensor) -> None:
        """See `Follower`."""
        self._open().commit(lanes)

    def rollback(self) -> None:
        """See `Follower`."""
        self._open().rollback()

    def reread(self, row: int, request: Request, text: str) -> Tensor:
        """See `Follower`."""
        response = [*request.prefill_ids, *inside(self.judge.tokenizer, text, trusted=False)]
        ids = torch.tensor([[*request.judge_ids, *response]], device=self.judge.body.device)
        scores = self.judge.score_tokens(ids, torch.ones_like(ids))[:, len(request.judge_ids) :].float().cpu()
        check_finite(Scores(scores.unsqueeze(0), torch.tensor([[len(response)]])), self.judge.name)
        self.calls[row] += 1
        self.tokens[row] += ids.shape[1]
        return scores[0]

    def _open(self) -> TreeSession:
        if self._session is None:
            raise JudgeError(f"{self.judge.name}: asked for a score before any prompt was admitted")
        return self._session


class TextFollower:
    """A judge of texts: one call a block for all lanes that are to be judged.

    Args:
        judge: Scores the response so far.
        cost: Which of the request's budgets is this judge's; None for a reward. Where that budget accumulates, the
            scores so far become costs of blocks, S_t - S_{t-1}. Without discount their sum is the score of the
            whole response, however it was cut into blocks.
        call: Runs the judge; the runtime passes one that knows the deadline.
    """

    rereads = True

    def __init__(self, judge: Judge, *, cost: int | None = None, call: Call | None = None) -> None:
        self.judge, self._cost = judge, cost
        self._increments: list[bool] = []
        self._call: Call = call or (lambda ask: ask())
        self._requests: list[Request] = []
        self._beams: list[list[float]] = []  # per row the score so far of every beam
        self._lanes: list[list[float]] = []
        self.calls: list[int] = []
        self.tokens: list[int] = []

    def admit(self, requests: Sequence[Request]) -> None:
        """See `Follower`."""
        for request in requests:
            self._requests.append(request)
            self._beams.append([0.0])
            self._increments.append(self._cost is not None and request.budgets[self._cost].accounting == "cumulative")
            self.calls.append(0)
            self.tokens.append(0)

    def retain(self, rows: Sequence[int]) -> None:
        """See `Follower`."""
        self._requests = [self._requests[row] for row in rows]
        self._beams = [self._beams[row] for row in rows]
        self._increments = [self._increments[row] for row in rows]
        self.calls = [self.calls[row] for row in rows]
        self.tokens = [self.tokens[row] for row in rows]

    def measure(self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf) -> Scores:
        """See `Follower`."""
        asked = [(int(row), int(lane)) for row, lane in lengths.nonzero().tolist()]
        texts = [text_of(row, lane) for row, lane in asked]
        scores = self._ask([self._requests[row] for row, _ in asked], texts)
        before = [
            [beams[parent] if parent >= 0 else 0.0 for parent in mine]
            for beams, mine in zip(self._beams, parents.tolist(), strict=True)
        ]
        self._lanes = [list(row) for row in before]
        values = torch.zeros(*parents.shape, 1)
        for (row, lane), text, score in zip(asked, texts, scores, strict=True):
            self._lanes[row][lane] = score
            values[row, lane, 0] = score - before[row][lane] if self._increments[row] else score
            self.tokens[row] += len(text.text.split())
        for row in {row for row, _ in asked}:
            self.calls[row] += 1
        return Scores(values, (lengths > 0).long().cpu())

    def commit(self, lanes: Tensor) -> None:
        """See `Follower`."""
        self._beams = [
            [scores[lane] if lane >= 0 else 0.0 for lane in kept]
            for scores, kept in zip(self._lanes, lanes.tolist(), strict=True)
        ]

    def rollback(self) -> None:
        """See `Follower`."""
        self._lanes = []

    def reread(self, row: int, request: Request, text: str) -> Tensor:
        """See `Follower`."""
        response = LaneText(request.prefill_text + text, finished=False)
        self.calls[row] += 1
        self.tokens[row] += len(response.text.split())
        return torch.tensor(self._ask([request], [response]))

    def _ask(self, requests: list[Request], texts: list[LaneText]) -> list[float]:
        if not requests:
            return []
        prompts, responses = [r.judge_prompt for r in requests], [t.text for t in texts]
        return self._call(Ask(self.judge, requests, prompts, responses, [t.finished for t in texts]))
