"""Guesses at the next tokens, so that few lanes take several tokens a forward.

A model says many things twice. Where the last tokens of a lane have been said before, what followed them then is fed
along with the token just drawn; the draws that follow show how much of it was right. Every draw still uses its own
uniform number and the model's own logits, so that a guess decides how long an answer takes and not what it says (the
idea of prompt lookup and speculative decoding, arXiv 2211.17192, without a second model).
"""

from collections.abc import Sequence

ORDER = 3  # tokens that must have been said in the same order; where they never were, one less
KEPT = 2**16  # contexts a generation; two generations are held, so that memory stays bounded
# Lanes for which guessing pays: they end a block together, so that the worst guessed one decides, and every guess is a
# row more in a forward that many lanes fill by themselves.
FEW = 8


class NgramDrafts:
    """What a policy said last after every few tokens.

    It learns what the policy itself sampled. No token of a prompt is remembered, neither as what was said nor as what
    came before it; a prompt's end may only be looked up.
    """

    def __init__(self) -> None:
        self._new: dict[tuple[int, ...], int] = {}
        self._old: dict[tuple[int, ...], int] = {}

    def learn(self, before: Sequence[int], said: Sequence[int]) -> None:
        """Remember sampled tokens; ``before`` are those of the same answer that were sampled right before them."""
        text = [*before[-ORDER:], *said]
        for order in (ORDER - 1, ORDER):
            for end in range(order, len(text)):
                self._new[tuple(text[end - order : end])] = text[end]
        if len(self._new) > KEPT:
            self._new, self._old = {}, self._new

    def _after(self, context: tuple[int, ...]) -> int | None:
        return self._new.get(context, self._old.get(context))

    def guess(self, text: Sequence[int], most: int) -> list[int]:
        """Up to ``most`` tokens that may follow a text; none where its end was never said."""
        end = list(text[-ORDER:])
        guessed: list[int] = []
        while len(guessed) < most:
            found = self._after(tuple(end))
            if found is None:
                found = self._after(tuple(end[1:]))
            if found is None:
                break
            guessed.append(found)
            end = [*end[1:], found]
        return guessed
