"""JSON schemas as tokens are held to them: objects without further keys, and one way to write blanks."""

from collections.abc import Iterator, Mapping
from typing import Any

# JSON is written as Python's `json.dumps` and our tool instructions write it. Free blanks would be a trap: small models
# go on writing them until their tokens are used up.
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Where one object is described in several places, a place that allows no further keys would forbid the others'.
SHARED = ("allOf", "if", "dependentSchemas", "unevaluatedProperties")
DATA = ("const", "enum", "default", "examples", "x-guidance")  # values, not schemas
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # names to schemas
OPEN = ("additionalProperties", "patternProperties", "propertyNames", "$ref", "anyOf", "oneOf")
PATTERNS = 12  # that one text may have to match together: with each, the library's look at a schema takes twice as long


def json_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The library's grammar of JSON that fits a schema; the schema's own ``x-guidance`` goes before our style.

    An object that lists its properties gets no others unless the schema speaks of them, as in OpenAI's strict mode: all
    that is allowed still fits, and a small model does not go on inventing keys.
    """
    style = {"x-guidance": {**STYLE, **schema.get("x-guidance", {})}}
    shared = any(key in each for each in _schemas(schema) for key in SHARED if not _single(each.get(key)))
    return {"json_schema": {**(schema if shared else _closed(schema)), **style}}


def too_many_patterns(schema: Mapping[str, Any]) -> str:
    """What is wrong with a schema whose patterns may meet at one text, where there are too many; nothing otherwise.

    The library cannot be stopped while it looks for a text that all of them match. Which do meet is not worked out.
    """
    nodes = list(_schemas(schema))
    found = sum("pattern" in each for each in nodes)
    if found <= PATTERNS or not any(_meeting(each) for each in nodes):
        return ""
    return f"{found} patterns, some of them for the same text (allOf, $ref); at most {PATTERNS} can be looked at then"


def _meeting(node: Mapping[str, Any]) -> bool:
    joined = node.get("allOf")
    others = ("$ref", "anyOf", "oneOf", "allOf")
    return (isinstance(joined, list) and len(joined) > 1) or ("pattern" in node and any(key in node for key in others))


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        return [_closed(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    made = {key: _part(key, part) for key, part in value.items()}
    closes = isinstance(value.get("properties"), Mapping) and not any(key in value for key in OPEN)
    return {**made, "additionalProperties": False} if closes else made


def _part(key: str, part: Any) -> Any:
    if key in NAMED and isinstance(part, Mapping):
        return {name: _closed(each) for name, each in part.items()}
    return part if key in DATA else _closed(part)


def _schemas(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every schema in a schema."""
    if isinstance(value, list):
        for each in value:
            yield from _schemas(each)
    elif isinstance(value, Mapping):
        yield value
        for key, part in value.items():
            if key not in DATA:
                yield from _schemas(list(part.values()) if key in NAMED and isinstance(part, Mapping) else part)


def _single(value: Any) -> bool:
    """Whether this is a list of one, as pydantic writes a reference with a default."""
    return isinstance(value, list) and len(value) == 1
