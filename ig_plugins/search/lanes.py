"""The open block of a batch of searches, as scoring sees it: every lane with its tokens, text and hidden state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ig_plugins.search.follow import LaneText
from ig_plugins.search.path import BlockCount, Step
from ig_plugins.search.request import Request
from ig_plugins.search.text import Detokenizer

Key = tuple[int, int]
"""(row, lane)"""


@dataclass(eq=False)
class Answer:
    """A finished candidate that the verifier passed."""

    step: Step
    score: float
    reward: float | None
    reason: Literal["stop", "length"]
    text: str
    slack: float


@dataclass(eq=False)
class Row:
    """One prompt in the search.

    Attributes:
        request: What was asked.
        beams: The open beams, best first.
        released: The step up to which text may leave: judged, and part of every answer to come.
        finished: Verified answers.
        blocks: Blocks that are done.
        attempt: Tries of the open block that failed.
        restarts: How often the search began anew from the prompt.
        tries_made: Tries of blocks without a safe candidate, those before a restart included.
        calm: The open block is tried with few lanes.
        retry_penalty: Shape (T, V), taken off the logits on the next try; None on the first.
        sampled: Lanes of the open block, all tries together.
        sampled_tokens: Their tokens.
        candidate_tokens: Tokens sampled in all blocks that are done.
        lag: The largest number of tokens by which release was behind decoding.
        judge_calls: Calls of judges, counted when the row leaves the search.
        judge_tokens: Tokens that judges read, likewise.
    """

    request: Request
    beams: list[Step]
    released: Step
    finished: list[Answer] = field(default_factory=list)
    blocks: int = 0
    attempt: int = 0
    restarts: int = 0
    tries_made: int = 0
    calm: bool = False
    retry_penalty: Tensor | None = None
    sampled: int = 0
    sampled_tokens: int = 0
    candidate_tokens: int = 0
    lag: int = 0
    judge_calls: int = 0
    judge_tokens: int = 0

    @property
    def room(self) -> int:
        """Tokens that the answer may still grow by."""
        return self.request.search.max_new_tokens - len(self.beams[0])

    @property
    def block_tokens(self) -> int:
        """d, or less in the last block."""
        return min(self.request.search.block_tokens, self.room)

    @property
    def lanes(self) -> int:
        """Candidates of the open block."""
        return self.request.search.calm_candidates if self.calm else self.request.search.lanes(self.blocks)

    @property
    def beam_count(self) -> int:
        """K, or the single one that a calm block is for."""
        return 1 if self.calm else self.request.search.beams

    @property
    def patience(self) -> int:
        """Calm blocks that are judged together before their text may leave: fewer calls, within the allowed lag."""
        return max(1, self.request.search.max_lag - 1)

    @property
    def last_try(self) -> bool:
        """Whether the open block is not sampled again if it fails."""
        return not self.calm and self.attempt + 1 >= self.request.search.tries

    @property
    def may_restart(self) -> bool:
        """Whether a dead end may be left by beginning anew: M - 1 times, and only while no text has left."""
        return self.restarts + 1 < self.request.search.tries and not self.request.begun

    def fail(self, penalty: Tensor) -> None:
        """The open block had no safe candidate and is tried again."""
        self.attempt += 1
        self.retry_penalty = penalty

    def alarm(self) -> None:
        """Few lanes were not enough: the open block and all that follow are searched in full."""
        self.calm = False

    def count(self, *, safe: int) -> BlockCount:
        """The open block's figures."""
        return BlockCount(
            index=self.blocks, candidates=self.sampled, safe=safe, tries=self.attempt + 1, tokens=self.sampled_tokens
        )

    def next_block(self, beams: list[Step]) -> None:
        """The open block is done; these are the beams."""
        self.beams = beams
        self.candidate_tokens += self.sampled_tokens
        self.blocks, self.attempt, self.retry_penalty = self.blocks + 1, 0, None
        self.sampled = self.sampled_tokens = 0

    def inherit(self, old: Row) -> None:
        """Takes over the counts of the row that this one is the new beginning of."""
        self.restarts, self.tries_made = old.restarts + 1, old.tries_made
        self.candidate_tokens, self.lag = old.candidate_tokens, old.lag
        self.judge_calls, self.judge_tokens = old.judge_calls, old.judge_tokens


@dataclass(eq=False)
class Lanes:
    """The open block.

    Attributes:
        rows: The B prompts in the search.
        parents: Shape (B, L), each lane's beam, -1 for no lane.
        stays: From this lane on, one lane of length 0 for every beam: a row whose block failed keeps its beams by
            committing them.
        tokens: Shape (B, L, T).
        lengths: Shape (B, L).
        ended: Shape (B, L), the lane ends its answer here: a stop token, a stop string, or no room left.
        hidden: Shape (B, L, H), the policy's state at each lane's last token.
        said: Shape (B, L, H), the mean of its states over the lane's whole response so far.
        cuts: The text of answers that a stop string cut, by (row, lane).
        natural: Shape (B, L), the lane ended with a stop token.
    """

    rows: list[Row]
    parents: Tensor
    stays: int
    tokens: Tensor
    lengths: Tensor
    ended: Tensor
    natural: Tensor
    hidden: Tensor
    said: Tensor
    cuts: dict[tuple[int, int], str]
    detokenizer: Detokenizer

    @property
    def open(self) -> Tensor:
        """Shape (B, L): sampled lanes whose answer goes on."""
        return (self.lengths > 0) & ~self.ended

    def block(self, row: int, lane: int) -> tuple[int, ...]:
        """The tokens that a lane adds to its beam."""
        return tuple(self.tokens[row, lane, : int(self.lengths[row, lane])].tolist())

    def beam(self, row: int, lane: int) -> Step:
        """The beam that a lane continues."""
        return self.rows[row].beams[int(self.parents[row, lane])]

    def depth(self, row: int, lane: int) -> int:
        """Response tokens up to a lane's end."""
        return len(self.beam(row, lane)) + int(self.lengths[row, lane])

    def text(self, row: int, lane: int) -> LaneText:
        """A lane's whole response so far, prefilled text included."""
        prefill = self.rows[row].request.prefill_text
        return LaneText(prefill + self.answer(row, lane), finished=bool(self.natural[row, lane]))

    def answer(self, row: int, lane: int) -> str:
        """The text that a lane adds to the prefilled one, up to a stop string."""
        cut = self.cuts.get((row, lane))
        if cut is not None:
            return cut
        ids = [*self.beam(row, lane).token_ids(), *self.block(row, lane)]
        return self.detokenizer.answer(self.rows[row].request, ids)

    def since(self, row: int, lane: int, step: Step) -> tuple[int, ...]:
        """A lane's tokens after an ancestor step."""
        ids = [*self.beam(row, lane).token_ids(), *self.block(row, lane)]
        return tuple(ids[len(step) :])


def distinct(lanes: Lanes, row: int, order: list[int]) -> list[int]:
    """The lanes of an order, without those that repeat an earlier one's tokens on the same beam."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept = []
    for lane in order:
        key = (int(lanes.parents[row, lane]), lanes.block(row, lane))
        if key not in seen:
            seen.add(key)
            kept.append(lane)
    return kept


def pad(rows: list[list[int]], *, fill: int = -1) -> Tensor:
    """Ragged lists as one (B, K) tensor, K at least 1."""
    width = max(1, max((len(row) for row in rows), default=0))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
