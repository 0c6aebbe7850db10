"""From tokens to text: decoding, stop strings, and how much of a text is settled enough to leave."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ig_plugins.search.request import Request

SPARE = 8  # characters at the start of a cut decoding that may differ: a missing space, pieces of a character
REPLACEMENT = "�"  # what an incomplete UTF-8 sequence decodes to


class Detokenizer:
    """Decodes responses the one way that judges, stop strings and callers all see."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def text(self, ids: Sequence[int]) -> str:
        """The text of response tokens, special tokens left out."""
        decoded = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded)

    def tail(self, ids: Sequence[int], *, new: int, reach: int) -> str:
        """The text of the last ``new`` ids with at least ``reach`` characters before it, or all of it.

        Decoding all of a long response at every block would cost by the square of its length. Only the first few
        characters of the tail may differ from those of the whole text, and they lie before what was asked for.
        """
        context = reach + SPARE
        while new + context < len(ids) and len(self.text(ids[-new - context : -new])) < reach + SPARE:
            context *= 2  # special tokens have no characters
        return self.text(ids[-new - context :])

    def answer(self, request: Request, ids: Sequence[int]) -> str:
        """The text of an answer's tokens as it stands behind the request's prefilled text."""
        return self.text([*request.prefill_ids, *ids])[len(request.prefill_text) :]


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string begins; None if there is none."""
    found = [at for at in (text.find(word) for word in stop if word) if at >= 0]
    return min(found, default=None)


def settled(text: str, stop: Sequence[str]) -> int:
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
