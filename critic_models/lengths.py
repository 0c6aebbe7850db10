"""How long a text a model can read, by what its configuration says."""

from collections.abc import Mapping
from typing import Any, TypeGuard

# The names under which model families keep the number of their positions.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def context_of(config: Any) -> int | None:
    """Positions that a model has, or None if it does not say.

    Args:
        config: A transformers configuration, or what is in a config.json. Of a model with several parts, the text's
            counts.
    """
    inner = _stated(config, "text_config")
    found = None if inner is None else context_of(inner)
    return found or next((stated for name in _POSITIONS if is_length(stated := _stated(config, name))), None)


def is_length(value: Any) -> TypeGuard[int]:
    """Whether this is a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _stated(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
