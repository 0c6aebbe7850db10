"""What each token of a vocabulary says, in bytes, and which tokens begin with something or hold it."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

_NO_TEXT = b"\xff"  # stands in no text


class Vocabulary:
    """The tokens of a vocabulary by what they say.

    Args:
        tokenizer: The library's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._spelled = [
            _NO_TEXT if tokenizer.is_special_token(token) else bytes(tokenizer.decode_bytes([token]))
            for token in range(tokenizer.vocab_size)
        ]
        self._order = sorted(range(len(self._spelled)), key=self._spelled.__getitem__)
        self._holding: dict[bytes, Sequence[int]] = {}

    def __getitem__(self, token: int) -> bytes:
        """What a token says; of a special one, something that stands in no text."""
        return self._spelled[token]

    def text(self, tokens: Sequence[int]) -> bytes:
        """What these tokens say."""
        return b"".join(self._spelled[token] for token in tokens)

    def beginning(self, start: bytes) -> Sequence[int]:
        """The tokens that begin with this; not with the byte 255."""
        first = bisect_left(self._order, start, key=self._spelled.__getitem__)
        after = start[:-1] + bytes([start[-1] + 1])
        return self._order[first : bisect_left(self._order, after, key=self._spelled.__getitem__)]

    def holding(self, part: bytes) -> Sequence[int]:
        """The tokens that hold this, mostly none."""
        if part not in self._holding:
            self._holding[part] = [token for token, text in enumerate(self._spelled) if part in text]
        return self._holding[part]
