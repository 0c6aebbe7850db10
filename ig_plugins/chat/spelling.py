"""An answer with its special tokens put back where they stood, of which the shown text has none."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.rendering import inside
from ig_plugins.chat.special import hidden_ids


@dataclass(frozen=True)
class Spelled:
    """A text with special tokens in it; without them it is the shown text, character by character.

    Attributes:
        text: The whole text.
        marks: Where in ``text`` each special token stands, and its length.
    """

    text: str
    marks: tuple[tuple[int, int], ...] = ()

    @property
    def body(self) -> str:
        """The text without the special tokens at its end."""
        end = len(self.text)
        for start, length in reversed(self.marks):
            end = start if start + length == end else end
        return self.text[:end]

    def shown(self, at: int) -> int:
        """Where position ``at`` of ``text`` is in the shown text."""
        return at - sum(min(length, at - start) for start, length in self.marks if start < at)


def spelled(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, *, opening: str = "") -> Spelled | None:
    """Put the special tokens of an answer into its text.

    A stop string cuts the text, but not the tokens: special tokens behind the cut are left out.

    Args:
        text: The answer as shown, after ``opening``.
        ids: All its tokens.
        tokenizer: The policy's.
        opening: What the answer was forced to start with.

    Returns:
        None where the tokens do not spell the text.
    """
    hidden = hidden_ids(tokenizer, ids)
    if not hidden:
        return Spelled(text)
    # How the first tokens decode depends on what is before them; an answer stands behind a prefill, or at the start.
    contexts: tuple[list[int], ...] = ([], inside(tokenizer, opening or "a", trusted=True))
    lead = next((lead for lead in contexts if _shown(tokenizer, lead, ids).startswith(text)), None)
    return None if lead is None else _joined(text, _places(ids, hidden, tokenizer, lead))


def _places(
    ids: Sequence[int], hidden: frozenset[int], tokenizer: PreTrainedTokenizerBase, lead: Sequence[int]
) -> list[tuple[int, str]]:
    """Each special token and the length of the shown text before it."""
    places: list[tuple[int, str]] = []
    after = len(_shown(tokenizer, lead, ids))
    for index in range(len(ids) - 1, -1, -1):
        if ids[index] in hidden:
            if index + 1 == len(ids) or ids[index + 1] not in hidden:
                # half a character may decode to more characters than the whole one
                after = min(after, len(_shown(tokenizer, lead, ids[:index])))
            places.append((after, str(tokenizer.convert_ids_to_tokens(ids[index]))))
    return places[::-1]


def _joined(text: str, places: Sequence[tuple[int, str]]) -> Spelled:
    pieces: list[str] = []
    marks: list[tuple[int, int]] = []
    done = length = 0
    for at, token in places:
        if at > len(text):
            break
        pieces += [text[done:at], token]
        marks.append((length + at - done, len(token)))
        length, done = length + at - done + len(token), at
    return Spelled("".join([*pieces, text[done:]]), tuple(marks))


def _shown(tokenizer: PreTrainedTokenizerBase, lead: Sequence[int], ids: Sequence[int]) -> str:
    def decoded(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return decoded([*lead, *ids])[len(decoded(lead)) :]
