"""From tokens to text: decoding, stop strings, and how much of a text is settled enough to leave."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ig_plugins.search.request import Request

SPARE = 8  # characters more than needed, as the start of a cut decoding may differ, if only by a space
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
