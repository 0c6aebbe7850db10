"""A checkpoint's ``generation_config``: how its makers sample from it, which is the default without a preset."""

from __future__ import annotations

from typing import Any

from transformers import SuppressTokensLogitsProcessor

from ig_plugins.errors import ConfigurationError
from ig_plugins.guard.options import Options, configuration_errors
from ig_plugins.search import SearchConfig

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def generation_defaults(stated: Any) -> Options:
    """The options of a call as a model's ``generation_config`` has them; the standard ones where it has none.

    What it does not state stays as it is in `SearchConfig`; transformers' own fallbacks (top-k 50 wherever a model
    samples) are not the checkpoint's. ``do_sample=False`` and a temperature of 0 ask for the one most likely answer; a
    search needs several, so it samples all the same, and only ``temperature=0`` of a caller makes it greedy.

    Raises:
        ConfigurationError: A value that no sampler takes; the message names the file.
    """
    sampling = {name: value for name in SAMPLING if (value := getattr(stated, name, None)) is not None}
    if sampling.get("temperature") == 0:
        del sampling["temperature"]
    try:
        with configuration_errors():
            search = SearchConfig(**sampling)
    except ConfigurationError as error:
        raise ConfigurationError(f"the checkpoint's generation_config.json cannot be sampled with: {error}") from error
    return Options(search=search, logits_processors=_suppressing(stated))


def _suppressing(stated: Any) -> tuple[Any, ...]:
    """Processors for tokens that the model shall never say."""
    never = getattr(stated, "suppress_tokens", None)
    return (SuppressTokensLogitsProcessor(never),) if never else ()
