"""The kit's guard as these tests use it: ChatML with tools, long answers, a word that is never said."""

from typing import Any

from ig_plugins.guard import InferenceGuard
from tests.kit.guards import make_guard

MARK = "WRECK"
REFUSAL = "I cannot help with that."


def hates_mark(prompts: Any, responses: Any) -> list[float]:
    """1 for responses that say the word, in any case."""
    return [1.0 if MARK in response.upper() else -1.0 for response in responses]


def scripted_guard(answers: Any, **options: Any) -> InferenceGuard:
    """A guard over a policy that gives these answers; options are the guard's own."""
    search = {"candidates": 4, "beams": 2, "block_tokens": 16, "max_new_tokens": 400, "seed": None}
    return make_guard(answers, cost=hates_mark, reward=None, chat=True, refusal=REFUSAL, search=search, **options)
