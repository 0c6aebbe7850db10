"""From tokens to text: decoding, stop strings, and how much of a growing text may be shown already."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ig_plugins.search.request import Request

SPARE = 8  # characters more than needed, as the start of a cut decoding may differ, if only by a space
REPLACEMENT = "�"  # what an incomplete UTF-8 sequence decodes to
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how vocabularies with byte fallback write a byte


@dataclass(frozen=True)
class LaneText:
    """A lane's response so far, prefill included, for judges that read text."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Whole:
    """A response to be read from its start, which no lane stands for.

    Attributes:
        row: The row of the search that it belongs to.
        request: That row's request.
        text: What judges of texts read, prefill included.
        ids: Its tokens without the prefill, which judges of tokens read.
        finished: Nothing follows.
        forced: It stands behind the start of a forced call, where there is one.
    """

    row: int
    request: Request
    text: str
    ids: tuple[int, ...]
    finished: bool = False
    forced: bool = True

    @property
    def prefill(self) -> Sequence[int]:
        """What it stands behind."""
        return self.request.prefill_ids if self.forced else self.request.prefill_ids[: self.request.written]


class Detokenizer:
    """Decodes responses the one way that judges, stop strings and callers all see."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._bytes = frozenset(index for token, index in vocabulary.items() if _BYTE.fullmatch(token))
        self._special = frozenset(
            [*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)]
        )

    def text(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of response tokens.

        Args:
            ids: The tokens.
            special: Special tokens are written out instead of left out.
        """
        decoded = self._tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return str(decoded)

    def tail(self, ids: Sequence[int], *, new: int, reach: int) -> str:
        """An end of the text that holds whatever of up to ``reach`` characters the last ``new`` ids bring into it.

        Decoding all of a long response at every block would cost by the square of its length.
        """
        context = reach + SPARE
        while new + context < len(ids):
            # A run of byte tokens that lacks a part decodes to nothing but replacements, and special tokens to nothing.
            before = self.text(ids[-new - context : -new]).strip(REPLACEMENT)
            if len(before) >= reach + SPARE:
                break
            context *= 2
        return self.text(ids[-new - context :])

    def whole_characters(self, request: Request, ids: Sequence[int]) -> int:
        """How many of an answer's tokens there are before half a character at its end."""
        return next(n for n in range(len(ids), -1, -1) if not self.answer(request, ids[:n]).endswith(REPLACEMENT))

    def answer(self, request: Request, ids: Sequence[int]) -> str:
        """The text of an answer's tokens as it stands behind the request's prefilled text."""
        return self.text([*request.prefill_ids, *ids])[len(request.prefill_text) :]

    def judged(self, request: Request, ids: Sequence[int], answer: str) -> str:
        """What judges of texts read of an answer: the prefilled text and the answer.

        Where tools were offered they also see the special tokens, which may be part of a call, but not the stop tokens
        at its end: what they read then holds all that a call can be made of.

        Args:
            request: Whose answer it is.
            ids: Its tokens.
            answer: Its text as shown.
        """
        if request.parse is None or not self._special.intersection(ids):
            return request.prefill_text + answer
        kept = list(ids)
        while kept and kept[-1] in self._special:
            kept.pop()
        return self.text([*request.prefill_ids, *kept], special=True)

    def complete(self, ids: Sequence[int]) -> int:
        """How many leading tokens decode to a text that no later token can change.

        A run of byte tokens is decoded as a whole: one byte too many makes all of it unreadable. So the whole run at
        the end is open, special tokens in it included, as these are left out before.
        """
        count, run = len(ids), len(ids)
        while count > 0 and ids[count - 1] in self._bytes | self._special:
            count -= 1
            run = count if ids[count] in self._bytes else run
        return run


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string begins; None if there is none."""
    found = [at for at in (text.find(word) for word in stop if word) if at >= 0]
    return min(found, default=None)


def stable_length(text: str, stop: Sequence[str]) -> int:
    """How many characters of a growing text can no longer change or turn into a stop string.

    Held back are an incomplete UTF-8 sequence at the end, and a tail that some stop string begins with.
    """
    end = len(text)
    while end > 0 and text[end - 1] == REPLACEMENT:
        end -= 1
    longest = max((len(word) for word in stop), default=0)
    for start in range(max(0, end - longest + 1), end):
        tail = text[start:end]
        if any(word.startswith(tail) for word in stop):
            return start
    return end


def showable(detokenizer: Detokenizer, request: Request, ids: Sequence[int]) -> tuple[int, str]:
    """The longest start of an answer, in whole tokens, that may be shown while the rest is open.

    Args:
        detokenizer: The policy's.
        request: Its stop strings and what it holds back for tools count.
        ids: The tokens of the answer so far.

    Returns:
        How many of the tokens, and their text. It is a start of every text that the answer can become.
    """
    prefill = len(request.prefill_ids)
    count = max(0, detokenizer.complete([*request.prefill_ids, *ids]) - prefill)
    text = detokenizer.answer(request, ids[:count])
    end = min(stable_length(text, request.stop), request.held_from(text))
    if end < len(text):
        count = bisect_right(range(count), end, key=lambda n: len(detokenizer.answer(request, ids[:n]))) - 1
    while count > 0:  # a cut inside a character or a run of bytes decodes to something else
        part = detokenizer.answer(request, ids[:count])
        if len(part) <= end and text.startswith(part):
            return count, part
        count -= 1
    return 0, ""
