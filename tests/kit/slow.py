"""Guards whose every decoding step takes a while, as a large model's does: for event loops, cancelling, deadlines."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ig_plugins.guard import InferenceGuard
from ig_plugins.search import Policy
from tests.kit.guards import make_guard
from tests.kit.scripted import ScriptedModel, ScriptedSession
from tests.kit.tokenizer import byte_tokenizer


class SlowModel(ScriptedModel):
    """A scripted model that sleeps before every step; ``steps`` counts them."""

    step_seconds = 0.01

    def prefill(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> "SlowSession":
        return SlowSession(self, prompts, lanes=lanes, block=block, max_new=max_new)


class SlowSession(ScriptedSession):
    """See ``SlowModel``."""

    def extend(self, tokens: Any, active: Any) -> None:
        time.sleep(self.model.step_seconds)  # type: ignore[attr-defined]
        super().extend(tokens, active)


def slow_guard(
    answers: Mapping[str, float] | Callable[[str], Mapping[str, float]], *, step_seconds: float = 0.01, **given: Any
) -> InferenceGuard:
    """As ``make_guard(chat=True)``, but slow; ``guard.components.policy.tree.steps`` counts decoding steps."""
    tokenizer = byte_tokenizer(chat=True)
    tree = SlowModel.from_answers(tokenizer, answers, context=8192)
    tree.step_seconds = step_seconds
    stop_ids = frozenset({tokenizer.eos_token_id})
    return make_guard(policy=Policy(tree=tree, tokenizer=tokenizer, stop_ids=stop_ids), chat=True, **given)
