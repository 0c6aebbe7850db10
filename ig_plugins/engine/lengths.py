"""The lengths that a configuration declares: where a model may begin to compute otherwise than on shorter texts."""

from collections.abc import Iterator, Mapping
from typing import Any

from critic_models.lengths import context_of, is_length

# How families end the names of the distances beyond which some of their layers do not look back.
_SPANS = ("window", "window_size", "chunk_size")
_ROPES = ("rope_parameters", "rope_scaling")
_ORIGINAL = "original_max_position_embeddings"


def windows_of(config: Any) -> list[int]:
    """The distances at which some layers stop to look back, ascending."""
    named = ((name, getattr(config, name, None)) for name in config.to_dict())
    return sorted({span for name, span in named if name.endswith(_SPANS) and is_length(span)})


def rope_thresholds(config: Any) -> list[tuple[int, str]]:
    """Lengths beyond which rotary embeddings may have other frequencies, ascending, each with its name.

    Not all have: those of llama3 and yarn are the same at every length. What changes has to be seen on the model.
    """
    found = {_ORIGINAL: getattr(config, _ORIGINAL, None)}
    for where, rope in _ropes(config):
        found[f"{where}.{_ORIGINAL}"] = rope.get(_ORIGINAL)
        if "dynamic" in str(rope.get("rope_type", rope.get("type", ""))):
            found["max_position_embeddings"] = context_of(config)
    lengths = {name: length for name, length in found.items() if is_length(length)}
    return sorted((length, name) for name, length in lengths.items())


def _ropes(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All rotary embeddings that a configuration describes: one, or one a layer type."""
    for name in _ROPES:
        rope = getattr(config, name, None)
        if not isinstance(rope, Mapping):
            continue
        yield name, rope
        yield from ((f"{name}.{kind}", each) for kind, each in rope.items() if isinstance(each, Mapping))
