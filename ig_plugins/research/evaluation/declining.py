"""Answers that decline in the policy's own words. A guard may prefer them, and a blocked answer is another matter."""

import re

_OPENING = re.compile(
    r"\W*(?:i(?:['’]m| am)? (?:(?:so |very |truly )?sorry|afraid|unable|not able|only an ai|just an ai|an ai)"
    r"|sorry|my apologies|i apologi[sz]e|as an ai|i (?:can(?:['’]t|not| not)|won['’]t|will not|must decline))\b",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Whether an answer opens with words of refusal. English openings only: a floor, not a classifier."""
    return _OPENING.match(text) is not None
