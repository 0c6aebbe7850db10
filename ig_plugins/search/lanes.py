"""The open block of a batch of searches, as scoring sees it: every lane with its tokens, text and hidden state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ig_plugins.search.request import Reply, Request
from ig_plugins.search.text import Detokenizer, LaneText, Whole
from ig_plugins.search.trajectory import BlockCount, Border, Step
from ig_plugins.search.verifier import Trail

Key = tuple[int, int]
"""(row, lane)"""


@dataclass(eq=False)
class Answer:
    """A finished candidate that the verifier passed.

    Attributes:
        step: Its last block.
        score: By which it is chosen, higher is better.
        reward: The reward model's score.
        reason: Why it ended.
        text: Exactly what was judged and leaves.
        token_ids: Its tokens; those of the shortened text where a stop string cut it.
        trail: The cost models' scores of it, from its start.
        reply: The answer taken apart, where the request asks for that.
        fits: It is whole, where the request has a grammar, and its calls fit their tools; preferred to one that is not.
    """

    step: Step
    score: float
    reward: float | None
    reason: Literal["stop", "length"]
    text: str
    token_ids: tuple[int, ...]
    trail: Trail
    reply: Reply | None = None
    fits: bool = True

    def behind(self, border: Border) -> Answer:
        """The same with the later scores that judges of texts gave a border on its way."""
        return replace(self, trail=self.trail.behind(border.trail, border.tokens))

    @property
    def slack(self) -> float:
        """The budget that is left, the least of all cost models'."""
        return min(self.trail.state)


@dataclass(eq=False)
class Row:
    """One prompt in the search.

    Attributes:
        request: What was asked.
        beams: The open beams, best first.
        released: Up to where text has left, or may: judged, and part of every answer to come.
        first_block: Tokens of the first block, where they are not those of the others.
        refused: Up to where the judges refused to let text leave, which ended the search.
        refused_texts: All such texts, those before a restart included; no answer may begin with one.
        finished: Verified answers.
        blocks: Blocks that are done.
        attempt: Tries of the open block that failed.
        restarts: How often the search began anew from the prompt.
        narrow: The open block is tried with few lanes (adaptive search).
        reserve: What the search before a restart would give: a verified answer, but no whole one of its grammar.
        tries_made: Tries of blocks without a safe candidate, those before a restart included.
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
    released: Border
    first_block: int | None = None
    refused: Border | None = None
    refused_texts: tuple[str, ...] = ()
    finished: list[Answer] = field(default_factory=list)
    blocks: int = 0
    attempt: int = 0
    restarts: int = 0
    reserve: Answer | None = None
    narrow: bool = False
    tries_made: int = 0
    retry_penalty: Tensor | None = None
    sampled: int = 0
    sampled_tokens: int = 0
    candidate_tokens: int = 0
    lag: int = 0
    judge_calls: int = 0
    judge_tokens: int = 0

    @property
    def fitting(self) -> list[Answer]:
        """The finished answers that fit, or all where none does."""
        return [answer for answer in self.finished if answer.fits] or self.finished

    @property
    def room(self) -> int:
        """Tokens that the answer may still grow by."""
        return self.request.search.max_new_tokens - len(self.beams[0])

    @property
    def block_tokens(self) -> int:
        """d, or less in the last block, and in the first one where the policy says so."""
        wanted = None if self.blocks else self.first_block
        return min(wanted or self.request.search.block_tokens, self.room)

    @property
    def lanes(self) -> int:
        """Candidates of the open block."""
        return self.request.search.narrow_candidates if self.narrow else self.request.search.lanes(self.blocks)

    @property
    def beam_count(self) -> int:
        """K, or the single one that a narrow block is for."""
        return 1 if self.narrow else self.request.search.beams

    @property
    def blocks_per_release(self) -> int:
        """Narrow blocks that are judged together before their text may leave: fewer calls, within the allowed lag."""
        return max(1, self.request.search.max_lag - 1)

    @property
    def last_try(self) -> bool:
        """Whether the open block is not sampled again if it fails."""
        return not self.narrow and self.attempt + 1 >= self.request.search.tries

    @property
    def may_restart(self) -> bool:
        """Whether a dead end may be left by beginning anew: M - 1 times, and only while no text has left."""
        return self.restarts + 1 < self.request.search.tries and not self.request.begun

    def fail(self, penalty: Tensor | None) -> None:
        """The open block had no safe candidate and is tried again."""
        self.attempt += 1
        self.retry_penalty = penalty

    def widen(self) -> None:
        """Few lanes were not enough: the open block and all that follow are searched in full."""
        self.narrow = False

    def pass_border(self, border: Border) -> None:
        """Text up to a border leaves: answers that lack it can no longer be given, the others carry what it cost."""
        self.released = border
        self.finished = [
            answer
            for answer in (each.behind(border) for each in self.finished if each.step.passes(border.step))
            if answer.trail.may_leave()
        ]

    def refuse_border(self, border: Border) -> None:
        """The judges refused text that all beams share: whatever contains it is lost, finished answers too."""
        self.refused, self.beams = border, []
        self.refused_texts += (border.text,) if border.text else ()
        self.tries_made += 1
        self.finished = [
            answer for answer in self.finished if not answer.step.passes(border.step) and not self.refuses(answer.text)
        ]
        if self.reserve is not None and self.refuses(self.reserve.text):
            self.reserve = None

    def refuses(self, text: str) -> bool:
        """Whether an answer begins with a text that may not leave."""
        return text.startswith(self.refused_texts)

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
        self.refused_texts = old.refused_texts
        self.candidate_tokens, self.lag = old.candidate_tokens, old.lag
        self.judge_calls, self.judge_tokens = old.judge_calls, old.judge_tokens


@dataclass(frozen=True)
class Cut:
    """An answer that ends before its last token does.

    Attributes:
        text: What is left of it, without prefilled text.
        whole: The same for the judges: its text as they read it, and its tokens.
        kept: How many of the sampled tokens it begins with; its own may be others, where a token was cut.
        reason: A stop string or token ended it, or there was no room for all of its last character.
    """

    text: str
    whole: Whole
    kept: int
    reason: Literal["stop", "length"] = "stop"


@dataclass(eq=False)
class Lanes:
    """The open block.

    Attributes:
        rows: The B prompts in the search.
        parents: Shape (B, L), each lane's beam, -1 for no lane.
        stays: From this lane on, one lane of length 0 for every beam: a row whose block failed keeps its beams by
            selecting them.
        tokens: Shape (B, L, T).
        lengths: Shape (B, L).
        ended: Shape (B, L), the lane ends its answer here: a stop token, a stop string, or no room left.
        natural: Shape (B, L), the lane ended with a stop token.
        hidden: Shape (B, L, H), the policy's state at each lane's last token.
        mean_hidden: Shape (B, L, H), the mean of its states over the lane's whole response so far.
        states: Shape (B, L, T, H), its states at the block's tokens; (B, L, 0, H) unless the scoring reads them.
        detokenizer: The policy's.
        encode: Text to tokens, as text inside an answer.
        cuts: Answers that end before their last token does.
    """

    rows: list[Row]
    parents: Tensor
    stays: int
    tokens: Tensor
    lengths: Tensor
    ended: Tensor
    natural: Tensor
    hidden: Tensor
    mean_hidden: Tensor
    states: Tensor
    detokenizer: Detokenizer
    encode: Callable[[str], tuple[int, ...]]
    cuts: dict[Key, Cut] = field(default_factory=dict)
    _replies: dict[Key, Reply] = field(default_factory=dict, init=False)

    @property
    def open(self) -> Tensor:
        """Shape (B, L): sampled lanes whose answer goes on."""
        return (self.lengths > 0) & ~self.ended

    @property
    def uncut(self) -> Tensor:
        """Shape (B, L): the lengths, 0 where a stop string cut the lane, which is read by itself."""
        lengths = self.lengths.clone()
        for key in self.cuts:
            lengths[key] = 0
        return lengths

    def block(self, row: int, lane: int) -> tuple[int, ...]:
        """The tokens that a lane adds to its beam."""
        return tuple(self.tokens[row, lane, : int(self.lengths[row, lane])].tolist())

    def beam(self, row: int, lane: int) -> Step:
        """The beam that a lane continues."""
        return self.rows[row].beams[int(self.parents[row, lane])]

    def depth(self, row: int, lane: int) -> int:
        """Response tokens up to a lane's end."""
        return len(self.beam(row, lane)) + int(self.lengths[row, lane])

    def token_ids(self, row: int, lane: int) -> tuple[int, ...]:
        """All response tokens up to a lane's end, or those of its text where a stop string cut it."""
        cut = self.cuts.get((row, lane))
        return cut.whole.ids if cut else (*self.beam(row, lane).token_ids(), *self.block(row, lane))

    def text(self, row: int, lane: int) -> LaneText:
        """A lane's whole response so far as judges of texts read it."""
        if (row, lane) in self.cuts:
            return LaneText(self.cuts[row, lane].whole.text, finished=False)
        request, ids = self.rows[row].request, self.token_ids(row, lane)
        read = self.detokenizer.judged(request, ids, self.answer(row, lane))
        return LaneText(read, finished=bool(self.natural[row, lane]))

    def answer(self, row: int, lane: int) -> str:
        """The text that a lane adds to the prefilled one, up to a stop string."""
        cut = self.cuts.get((row, lane))
        return cut.text if cut else self.detokenizer.answer(self.rows[row].request, self.token_ids(row, lane))

    def reply(self, key: Key) -> Reply | None:
        """A finished answer taken apart, once: what is judged is the very object that is handed out."""
        parse = self.rows[key[0]].request.parse
        if parse is None:
            return None
        if key not in self._replies:
            self._replies[key] = parse(self.answer(*key), self.token_ids(*key))
        return self._replies[key]


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
