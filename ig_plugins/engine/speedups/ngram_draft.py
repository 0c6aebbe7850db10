"""Drafts of the next tokens by n-grams, so that few lanes take several tokens a forward.

A model repeats itself. Where the last tokens of a lane were sampled before, what followed them then is forwarded along
with the token just drawn; the draws that follow show how much of the draft was right. Every draw still uses its own
uniform number and the model's own logits, so that a draft decides how long an answer takes and not its text (the idea
of prompt lookup and speculative decoding, arXiv 2211.17192, without a second model).
"""

from collections.abc import Sequence

ORDER = 3  # tokens that must have been sampled in the same order; where they never were, one less
KEPT = 2**16  # contexts a generation; two generations are held, so that memory stays bounded
FIRST = 8  # tokens of a policy's first draft; then as many as were right lately
# Lanes for which drafts pay: they end a block together, so that the lane with the worst draft decides, and each
# drafted token is a row more in a forward that many lanes fill by themselves.
FEW = 8


class NgramDrafts:
    """The token that a policy sampled last after every few tokens.

    It learns what the policy itself sampled. No token of a prompt is remembered, neither as what was sampled nor
    as what came before it; a prompt's end may only be looked up.

    Attributes:
        reach: Tokens that the first drafts of a block may have, by how right the last ones of the block before were.
    """

    def __init__(self) -> None:
        self.reach = FIRST
        self._new: dict[tuple[int, ...], int] = {}
        self._old: dict[tuple[int, ...], int] = {}

    def learn(self, before: Sequence[int], sampled: Sequence[int]) -> None:
        """Remember sampled tokens; ``before`` are those of the same answer that were sampled right before them."""
        text = [*before[-ORDER:], *sampled]
        for order in (ORDER - 1, ORDER):
            for end in range(order, len(text)):
                self._new[tuple(text[end - order : end])] = text[end]
        if len(self._new) > KEPT:
            self._new, self._old = {}, self._new

    def _after(self, context: tuple[int, ...]) -> int | None:
        return self._new.get(context, self._old.get(context))

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        """Up to ``most`` tokens that may follow a text; none where its end was never sampled."""
        end = list(text[-ORDER:])
        drafted: list[int] = []
        while len(drafted) < most:
            found = self._after(tuple(end))
            if found is None:
                found = self._after(tuple(end[1:]))
            if found is None:
                break
            drafted.append(found)
            end = [*end[1:], found]
        return drafted


def reach_after(reach: int, *, drafted: int, right: int) -> int:
    """How many tokens a lane's next draft may have: twice as many where all were right, else half, or what was right.

    So the wrong ones stay few beside what is sampled, however wrong drafts are.
    """
    return max(reach, 2 * drafted + 1) if right == drafted else max(right, drafted // 2)
