"""Judges that follow a search: on the token tree where they share the policy's tokenizer, else by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from critic_models.errors import JudgeError
from critic_models.judges import Judge, TokenJudge
from ig_plugins.engine import TreeModel, TreeSession
from ig_plugins.observing import watched
from ig_plugins.search.request import Request
from ig_plugins.search.text import LaneText, Whole
from ig_plugins.search.verifier import Scored


class Scores(NamedTuple):
    """A judge's scores of every lane.

    Attributes:
        values: Shape (B, L, T), float64 on the CPU; the score of each token, or T = 1 score of the text so far.
        lengths: Shape (B, L), how many of the T entries are real; 0 for lanes that were not judged.
    """

    values: Tensor
    lengths: Tensor

    def of(self, row: int, lane: int, *, up_to: int, whole: bool) -> Scored:
        """A lane's scores as points of an answer, the last of them after ``up_to`` of its tokens."""
        count = int(self.lengths[row, lane])
        return Scored(self.values[row, lane, :count], tuple(range(up_to - count + 1, up_to + 1)), whole)


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


class JudgeSession(Protocol):
    """One judge that keeps up with the search, block by block.

    Attributes:
        calls: Per row of the search, how often the judge was asked since the row was added.
        tokens: What it read, likewise.
        reads_text: It reads the whole text at every call, so that it stands nowhere; else single tokens.
        reads_states: It scores the open block by the policy's own states, which the search must keep for it.
    """

    reads_text: bool
    reads_states: bool
    calls: list[int]
    tokens: list[int]

    @property
    def judge(self) -> Judge:
        """Who is asked."""

    def add_rows(self, requests: Sequence[Request]) -> None:
        """New rows at the end."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""

    def score(
        self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf, states: Tensor | None = None
    ) -> Scores:
        """Scores the open block.

        Args:
            parents: Shape (B, L), the beam that each lane continues, -1 for no lane.
            tokens: Shape (B, L, T).
            lengths: Shape (B, L); lanes of length 0 are not judged.
            text_of: (row, lane) to the lane's text, asked only by judges that read text.
            states: Shape (B, L, T, H), the policy's states at these tokens, if it has sampled them and they were kept;
                used only by judges that read states.

        Raises:
            JudgeError: A score is not finite.
        """

    def advance(self, lanes: Tensor) -> None:
        """Shape (B, K): these lanes are the beams now, -1 for none."""

    def rollback(self) -> None:
        """Forgets the open block."""

    def score_whole(self, responses: Sequence[Whole]) -> list[Scored]:
        """Scores responses from their start, the prefill included.

        Raises:
            JudgeError: A score is not finite.
        """


class TokenScores:
    """What sessions of token judges have in common: every token gets its score, and none that is not finite."""

    reads_text = False
    reads_states = False
    judge: TokenJudge
    calls: list[int]
    tokens: list[int]

    def score_whole(self, responses: Sequence[Whole]) -> list[Scored]:
        """See `JudgeSession`."""
        found = []
        for each in responses:
            prompt, prefill = each.request.judge_ids, each.prefill
            ids = torch.tensor([[*prompt, *prefill, *each.ids]], device=self.judge.body.device)
            with watched("judge", self.judge.name, texts=1):
                scores = self.judge.score_tokens(ids, torch.ones_like(ids))[0, len(prompt) :].double().cpu()
            self._check_finite(scores)
            self.calls[each.row] += 1
            self.tokens[each.row] += ids.shape[1]
            found.append(Scored(scores, tuple(range(1 - len(prefill), 1 + len(each.ids))), whole=False))
        return found

    def _scores(self, values: Tensor, lengths: Tensor) -> Scores:
        """Scores (B, L, T) of lanes of these lengths, counted and checked."""
        for row, read in enumerate(lengths.sum(dim=1).tolist()):
            self.calls[row] += 1 if read else 0
            self.tokens[row] += read
        lengths = lengths.cpu()
        self._check_finite(values[torch.arange(values.shape[-1]) < lengths.unsqueeze(-1)])
        return Scores(values, lengths)

    def _check_finite(self, scores: Tensor) -> None:
        if not torch.isfinite(scores).all():
            raise JudgeError(
                f"{self.judge.name} returned NaN or an infinite score; no text is released on such a verdict"
            )


class TreeJudgeSession(TokenScores):
    """A token judge on its own token tree: nothing is read twice."""

    def __init__(self, judge: TokenJudge, tree: TreeModel, *, lanes: int, block: int, max_new: int) -> None:
        self.judge, self.tree = judge, tree
        self._size = {"lanes": lanes, "block": block, "max_new": max_new}
        self._session: TreeSession | None = None
        self.calls: list[int] = []
        self.tokens: list[int] = []

    def add_rows(self, requests: Sequence[Request]) -> None:
        """See `JudgeSession`."""
        prompts = [request.judge_ids for request in requests]
        if self._session is None or self._session.rows == 0:
            self._session = self.tree.prefill(prompts, **self._size)
        else:
            self._session.add_rows(prompts)
        self.calls += [1] * len(requests)
        self.tokens += [len(prompt) for prompt in prompts]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See `JudgeSession`."""
        self._open().keep_rows(rows)
        self.calls = [self.calls[row] for row in rows]
        self.tokens = [self.tokens[row] for row in rows]

    def score(
        self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf, states: Tensor | None = None
    ) -> Scores:
        """See `JudgeSession`."""
        session = self._open()
        session.fork(parents)
        with watched("judge", self.judge.name, texts=parents.numel()):
            hidden = session.append(tokens, lengths)  # (B, L, T, H)
            values = self.judge.score_hidden(hidden).double().cpu()
        return self._scores(values, lengths)

    def advance(self, lanes: Tensor) -> None:
        """See `JudgeSession`."""
        self._open().select(lanes)

    def rollback(self) -> None:
        """See `JudgeSession`."""
        self._open().rollback()

    def _open(self) -> TreeSession:
        if self._session is None:
            raise JudgeError(f"{self.judge.name}: asked for a score before any prompt was added")
        return self._session


class RowsOfRequests:
    """What sessions have in common that know their rows by the requests, and stand nowhere between blocks."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self.calls: list[int] = []
        self.tokens: list[int] = []

    def add_rows(self, requests: Sequence[Request]) -> None:
        """See `JudgeSession`."""
        self._requests += requests
        self.calls += [0] * len(requests)
        self.tokens += [0] * len(requests)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See `JudgeSession`."""
        self._requests = [self._requests[row] for row in rows]
        self.calls = [self.calls[row] for row in rows]
        self.tokens = [self.tokens[row] for row in rows]

    def advance(self, lanes: Tensor) -> None:
        """See `JudgeSession`. The next text is read from its start."""

    def rollback(self) -> None:
        """See `JudgeSession`. Nothing is remembered of it."""


class TextJudgeSession(RowsOfRequests):
    """A judge of texts: one call a block for all lanes that are to be judged. Scores are of the text so far.

    Args:
        judge: Scores the response so far.
        call: Runs the judge; the runtime passes one that knows the deadline.
    """

    reads_text = True
    reads_states = False

    def __init__(self, judge: Judge, *, call: Call | None = None) -> None:
        super().__init__()
        self.judge = judge
        self._call: Call = call or (lambda ask: ask())

    def score(
        self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf, states: Tensor | None = None
    ) -> Scores:
        """See `JudgeSession`."""
        asked = [(int(row), int(lane)) for row, lane in lengths.nonzero().tolist()]
        scores = self._ask([row for row, _ in asked], [text_of(row, lane) for row, lane in asked])
        values = torch.zeros(*parents.shape, 1, dtype=torch.float64)
        for (row, lane), score in zip(asked, scores, strict=True):
            values[row, lane, 0] = score
        return Scores(values, (lengths > 0).long().cpu())

    def score_whole(self, responses: Sequence[Whole]) -> list[Scored]:
        """See `JudgeSession`."""
        texts = [LaneText(each.text, each.finished) for each in responses]
        scores = self._ask([each.row for each in responses], texts)
        return [
            Scored(torch.tensor([score], dtype=torch.float64), (len(each.ids),), whole=True)
            for each, score in zip(responses, scores, strict=True)
        ]

    def _ask(self, rows: Sequence[int], texts: Sequence[LaneText]) -> list[float]:
        """One call for all of these texts, each of a row.

        Lanes that say the same are asked about once, so that a judge which changes its mind has one verdict on a text.
        """
        said = list(zip(rows, texts, strict=True))
        distinct = list(dict.fromkeys(said))
        if not distinct:
            return []
        requests = [self._requests[row] for row, _ in distinct]
        prompts, responses = [request.judge_prompt for request in requests], [each.text for _, each in distinct]
        ask = Ask(self.judge, requests, prompts, responses, [each.finished for _, each in distinct])
        scores = dict(zip(distinct, self._call(ask), strict=True))
        for row in set(rows):
            self.calls[row] += 1
        for row, text in distinct:
            self.tokens[row] += len(text.text.split())
        return [scores[each] for each in said]
