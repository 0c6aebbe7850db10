"""A grammar whose answers come to their end within max_tokens.

As long as there is room for much more than a way to the end, the mask is the grammar's. Near the end it allows only
tokens behind which a whole answer still fits, and of these the likeliest, since each has to be tried. Once a way to the
end is known it stays known, so that there is always a token to go on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar.compiler import CompiledGrammar, Compiler
from ig_plugins.grammar.rules import Rule

NEAR = 24  # tokens beside a way to the end that are still no hurry; one token seldom opens a form that takes more
LIKELY = 32  # tokens that are allowed near the end
SOUGHT = 4  # new ways to the end that are looked for at a step
FAR = 1024  # tokens beyond which no shortest answer is worked out: every start of one would be followed for minutes

Way = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What all beginnings of one answer share.

    Attributes:
        compiler: The policy's.
        max_tokens: Of the answer.
        least: The tokens of a short answer; None where none was found, and answers may be cut off.
        ways: A way to the end from each beginning that was looked at; None where none was found.
    """

    compiler: Compiler
    max_tokens: int
    least: int | None
    ways: dict[Way, Way | None] = field(default_factory=dict)


class ClosingGrammar:
    """A grammar that has read the start of an answer and knows how long it may become.

    Args:
        grammar: What follows must fit.
        plan: For the whole answer.
        read: The tokens so far.
    """

    def __init__(self, grammar: CompiledGrammar, plan: Plan, read: Way = ()) -> None:
        self._grammar, self._plan, self._read = grammar, plan, read

    def after(self, tokens: Sequence[int]) -> ClosingGrammar:
        """The same with these tokens read too."""
        return ClosingGrammar(self._grammar.after(tokens), self._plan, (*self._read, *tokens))

    @property
    def idle(self) -> bool:
        """Never: the answer is held from its first token on."""
        return False

    @property
    def complete(self) -> bool:
        """Whether what was read is a whole answer."""
        return self._grammar.complete

    @property
    def ended(self) -> bool:
        """Whether it is one and nothing may follow."""
        return self._grammar.ended

    @property
    def least(self) -> int | None:
        """The tokens of a short answer; None where none was found."""
        return self._plan.least

    def within(self, max_tokens: int) -> ClosingGrammar:
        """The same for answers of at most so many tokens."""
        return ClosingGrammar(self._grammar, Plan(self._plan.compiler, max_tokens, self.least), self._read)

    def takes(self, tokens: Sequence[int]) -> bool:
        """Whether all of these tokens may follow, one after the other."""
        return self._grammar.takes(tokens)

    def allowed(self, scores: Tensor) -> bytes:
        """One bit a token, lowest first.

        Args:
            scores: The policy's logits, shape (V,).
        """
        allowed, room = self._grammar.allowed(), self._plan.max_tokens - len(self._read)
        if self._plan.least is None or room > self._plan.least + 2 * NEAR:
            return allowed
        way = self._way(room)
        if way is None or room > len(way) + NEAR:
            return allowed
        return self._ending(allowed, scores, way, room)

    def _way(self, room: int) -> Way | None:
        """A way to the end that fits into the room; None where none was found, and then none is looked for any more."""
        ways = self._plan.ways
        if self._read not in ways:
            lost = self._read and ways.get(self._read[:-1], ()) is None
            way = None if lost else self._carried(room)
            ways[self._read] = way if lost or way is not None else self._found(room)
        return ways[self._read]

    def _carried(self, room: int) -> Way | None:
        """The way from before the last token, where it still leads to the end."""
        before = self._plan.ways.get(self._read[:-1]) if self._read else None
        if before is None:
            return None
        if before[:1] == self._read[-1:]:
            return before[1:]
        stop = min(self._plan.compiler.stop_ids)
        return before if len(before) <= room and self._grammar.takes([*before, stop]) else None

    def _found(self, room: int) -> Way | None:
        return self._grammar.way_out(self._plan.compiler.endings, most=room)

    def _ending(self, allowed: bytes, scores: Tensor, way: Way, room: int) -> bytes:
        """The likeliest allowed tokens behind which a whole answer fits into the room; the way's own among them."""
        kept = {*way[:1], *(self._plan.compiler.stop_ids & set(_tokens(allowed)))}
        sought = 0
        for token in _likeliest(allowed, scores):
            if len(kept) >= LIKELY:
                break
            if token in kept:
                continue
            behind = self.after([token])
            ends = behind._carried(room - 1)
            if ends is None and sought < SOUGHT:
                sought += 1
                ends = behind._found(room - 1)
            if ends is not None:
                self._plan.ways[behind._read] = ends
                kept.add(token)
        bits = np.zeros(len(allowed) * 8, dtype=np.uint8)
        bits[list(kept)] = 1
        return np.packbits(bits, bitorder="little").tobytes()


def closing(compiler: Compiler, rule: Rule, *, max_tokens: int) -> ClosingGrammar:
    """A rule's grammar for answers of at most so many tokens.

    Raises:
        ConfigurationError: It is none for this tokenizer, or no answer is so short.
    """
    grammar = compiler(rule)
    least = grammar.way_out(compiler.endings, most=max_tokens)
    if least is None and max_tokens < FAR:  # none so short, or none that is found so quickly
        least = grammar.way_out(compiler.endings, most=min(4 * max_tokens + 4 * NEAR, 2 * FAR), thorough=True)
    if least is not None and len(least) > max_tokens:
        raise ConfigurationError(
            f"max_tokens is {max_tokens}, and the shortest answer that was found for {rule.kind} takes {len(least)} "
            f"tokens; set max_tokens to {len(least)} or more, or ask for less"
        )
    return ClosingGrammar(grammar, Plan(compiler, max_tokens, None if least is None else len(least)))


def _tokens(allowed: bytes) -> list[int]:
    found: list[int] = np.unpackbits(np.frombuffer(allowed, dtype=np.uint8), bitorder="little").nonzero()[0].tolist()
    return found


def _likeliest(allowed: bytes, scores: Tensor) -> Iterator[int]:
    """Allowed tokens in the order of their scores, as many as are worth trying."""
    mask = np.unpackbits(np.frombuffer(allowed, dtype=np.uint8), bitorder="little", count=len(scores))
    held = scores.float().masked_fill(~torch.from_numpy(mask).bool().to(scores.device), -torch.inf)
    best = held.topk(min(2 * LIKELY, int(mask.sum())))
    yield from best.indices.tolist()
