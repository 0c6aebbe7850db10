"""A short way from where a grammar stands to a whole answer, as tokens."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

FEW = 16  # single bytes that are all tried where they may follow; of more, two of each kind
WIDE = 256  # states that are looked at where one byte after the other leads to no end
_CLOSERS = "\"'])}>"
_ODD = 16  # from this kind on: control characters and pieces of characters


class Endings:
    """Finds ways to a grammar's end.

    One byte is taken after the other: of those that may follow one that leads to where the way was not yet, or seldom,
    and among these a closing mark first. What can only follow is taken at once. Where a grammar stands is told by the
    tokens it allows, which is nearly always enough. Where it is not, as for ``(a|b)*abb``, whose states all look alike,
    the nearest end is sought in all directions, as far as `WIDE` states reach.

    Args:
        tokenizer: The library's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        spelled = {token: tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)}
        single = {
            token: text[0]
            for token, text in spelled.items()
            if len(text) == 1 and not tokenizer.is_special_token(token)
        }
        order = sorted(single, key=lambda token: (_kind(single[token]), single[token]))
        self._single = np.array(order, dtype=np.int64)
        self._kinds = np.array([_kind(single[token]) for token in order], dtype=np.int64)

    def shortest(self, state: Any, *, most: int) -> tuple[int, ...] | None:
        """Tokens that lead to a whole answer, whatever comes first; see `find`, which takes the first that it finds."""
        here = state.deep_copy()
        before = self._forced(here, ())
        if here.is_accepting():
            return before if len(before) <= most else None
        ways = []
        for token in self._tried(here.compute_bitmask()):
            ahead = here.deep_copy()
            if ahead.consume_token(token) and (rest := self._straight(ahead, most=most)) is not None:
                ways.append(self._respelled(state, (*before, token, *rest)))
        return min((way for way in ways if len(way) <= most), key=len, default=None)

    def find(self, state: Any, *, most: int) -> tuple[int, ...] | None:
        """Tokens that lead to a whole answer, without the one that says so; None if none was found.

        Args:
            state: The library's matcher; left as it is.
            most: How many tokens it may take.
        """
        found = self._straight(state, most=most)
        return self._nearest(state, most=most) if found is None else found

    def _nearest(self, state: Any, *, most: int) -> tuple[int, ...] | None:
        """The first whole answer, breadth first."""
        waiting: deque[tuple[Any, tuple[int, ...]]] = deque([(state, ())])
        left = WIDE
        while waiting:
            here, way = waiting.popleft()
            for token in self._tried(here.compute_bitmask()):
                if (step := self._behind(here, token)) is None:
                    continue
                ahead, said = step[0], (*way, *step[1])
                if ahead.is_accepting():
                    found = self._respelled(state, said)
                    return found if len(found) <= most else None
                waiting.append((ahead, said))
                left -= 1
                if not left:
                    return None
        return None

    def _straight(self, state: Any, *, most: int) -> tuple[int, ...] | None:
        """The same by one byte after the other."""
        here = state.deep_copy()
        way, visits = self._forced(here, ()), Counter[bytes]()
        while len(way) <= 2 * most:  # spelled again, it may be half as long
            if here.is_accepting():
                found = self._respelled(state, way)
                return found if len(found) <= most else None
            bits = here.compute_bitmask()
            if here.is_error():
                return None
            visits[bits] += 1
            step = self._step(here, self._tried(bits), visits)
            if step is None:
                return None
            here, way = step[0], (*way, *step[1])
        return None

    def _step(self, here: Any, tokens: Sequence[int], visits: Counter[bytes]) -> tuple[Any, tuple[int, ...]] | None:
        """The next token and what it forces, and the state behind them."""
        ahead = [state for token in tokens if (state := self._behind(here, token)) is not None]
        if ends := [each for each in ahead if each[0].is_accepting()]:
            return min(ends, key=lambda each: len(each[1]))
        best, least = None, 0
        for each in ahead:
            seen = visits[each[0].compute_bitmask()]
            if best is None or seen < least:
                best, least = each, seen
            if seen == 0:
                break
        return best

    def _behind(self, here: Any, token: int) -> tuple[Any, tuple[int, ...]] | None:
        ahead = here.deep_copy()
        return (ahead, self._forced(ahead, (token,))) if ahead.consume_token(token) else None

    def _tried(self, bits: bytes) -> Sequence[int]:
        """Single bytes that may follow, closing marks first; where there are none, some whole tokens."""
        allowed = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")
        may = allowed[self._single] > 0
        tokens, kinds = self._single[may], self._kinds[may]
        if len(tokens) > FEW:
            plain = tokens[kinds < _ODD] if (kinds < _ODD).any() else tokens
            _, firsts = np.unique(kinds[: len(plain)], return_index=True)
            tokens = plain[np.unique(np.concatenate([firsts, firsts + 1]).clip(max=len(plain) - 1))]
        found: list[int] = (tokens if len(tokens) else allowed.nonzero()[0][:FEW]).tolist()
        return found

    def _forced(self, state: Any, way: tuple[int, ...]) -> tuple[int, ...]:
        """Takes what can only follow."""
        for tokens in self._following(state):
            if tokens and state.validate_tokens(tokens) == len(tokens) and state.consume_tokens(tokens):
                way = (*way, *tokens)
        return way

    def _following(self, state: Any) -> Iterator[Sequence[int]]:
        yield state.compute_ff_tokens()
        yield self._tokenizer.tokenize_bytes(state.compute_ff_bytes())

    def _respelled(self, state: Any, way: tuple[int, ...]) -> tuple[int, ...]:
        """The same text in the tokens that the tokenizer would write it in, if they are fewer."""
        if any(self._tokenizer.is_special_token(token) for token in way):
            return way
        tokens = self._tokenizer.tokenize_bytes(self._tokenizer.decode_bytes(list(way)))
        fewer = len(tokens) < len(way) and state.validate_tokens(tokens) == len(tokens)
        return tuple(tokens) if fewer else way


def _kind(byte: int) -> int:
    """Marks that close something in most languages by themselves, and kinds of what else there is."""
    text = chr(byte)
    if text in _CLOSERS:
        return _CLOSERS.index(text)
    tests = (text.isdigit(), text.islower(), text.isupper(), text == " ", text == "\n", text.isprintable())
    return _ODD if byte > 127 else next((10 + at for at, true in enumerate(tests) if true), _ODD)
