"""What OpenAI's requests may say beside a guard's own options: what changes nothing, and what is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ig_plugins.server.errors import FieldError

# Their values change no answer here. Nothing of them is stored.
IGNORED = {
    "user": "Accepted and not looked at.",
    "safety_identifier": "Accepted and not looked at.",
    "store": "Accepted and not looked at: nothing is stored.",
    "metadata": "Accepted and not looked at.",
    "service_tier": "Accepted and not looked at.",
    "prompt_cache_key": "Accepted and not looked at.",
    "prompt_cache_retention": "Accepted and not looked at.",
    "prediction": "Accepted and not looked at: it decides the time, not the answer.",
}

_UNLIKELY = "an answer is chosen among candidates, so the policy's probabilities are not the answer's"
_NO_AUDIO = "this service reads and writes text"

# The values that say "as usual"; any other would change the answer in a way that this service does not know.
USUAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "presence_penalty": ((0,), "say repetition_penalty, which takes 1.0 for none"),
    "frequency_penalty": ((0,), "say repetition_penalty, which takes 1.0 for none"),
    "logit_bias": (({},), "which tokens are drawn is the policy's and the guard's"),
    "logprobs": ((False,), _UNLIKELY),
    "top_logprobs": ((0,), _UNLIKELY),
    "modalities": ((["text"],), _NO_AUDIO),
    "audio": ((), _NO_AUDIO),
    "web_search_options": ((), "this service does not search"),
    "reasoning_effort": (("none",), "how much is searched is said by candidates and beams"),
    "verbosity": (("medium",), "how long an answer may be is said by max_tokens"),
    "functions": (([],), "say tools"),
    "function_call": (("none", "auto"), "say tool_choice"),
}
USUAL_TEXT: dict[str, tuple[tuple[Any, ...], str]] = {
    **{name: USUAL[name] for name in ("presence_penalty", "frequency_penalty", "logit_bias")},
    "logprobs": ((), _UNLIKELY),
    "best_of": ((1,), "say candidates: that many are drawn, and the best verified one is the answer"),
    "echo": ((False,), "the prompt is not judged, so it is not sent back"),
    "suffix": (("",), "the policy continues a text and does not fill in"),
}


def refuse_unusual(given: Mapping[str, Any], usual: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """Refuses fields whose value would change the answer.

    Args:
        given: Name to value.
        usual: The values allowed beside null, and what to do instead.

    Raises:
        FieldError: Names the field, what is allowed and why.
    """
    for name, (allowed, why) in usual.items():
        value = given.get(name)
        if value is not None and not any(value == each and _kind(value) == _kind(each) for each in allowed):
            may = " or ".join([*(_json(each) for each in allowed), "null"])
            raise FieldError(f"{name} may only be {may} here: {why}", param=name)


def _kind(value: Any) -> type:
    """The type as JSON has it: 0 and 0.0 are alike, False and 0 are not."""
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
