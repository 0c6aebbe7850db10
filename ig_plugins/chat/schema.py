"""Values held against a JSON schema by ``jsonschema_rs``: drafts 4 to 2020-12, formats included, nothing fetched.

Without ``$schema`` the draft is 2020-12, or 7 where the schema is only valid as that. OpenAPI's ``nullable`` is
understood.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jsonschema_rs

from ig_plugins.chat.schema_work import too_much

_LIMIT = 1 << 20  # characters of a schema
_TYPES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    type(None): "null",
    int: "integer",
    float: "number",
}
_DATA = ("enum", "const", "default", "examples", "example")  # keywords that hold values and not schemas


def schema_fault(schema: Any) -> str | None:
    """Say what is wrong with a schema itself, or None: it is invalid, or it refers to what is not in it."""
    built = _built(schema)
    return built if isinstance(built, str) else None


def schema_problem(value: Any, schema: Any) -> str | None:
    """Say where ``value`` breaks ``schema``, or None where it does not.

    Neither values nor names of the answer's own making are quoted, so that the text may go to a log.

    Args:
        value: Parsed JSON.
        schema: A JSON schema, or True / {} for anything.
    """
    built = _built(schema)
    if isinstance(built, str):
        return f"the schema cannot be checked: {built}"
    if problem := too_much(value, schema):
        return problem
    try:
        built.validate(value)
    except jsonschema_rs.ValidationError as error:
        return _said(error, frozenset(_declared(schema)))
    except (ValueError, RecursionError):  # half a character, or a number beyond what JSON can hold
        return "$ holds a value that JSON cannot write"
    return None


def _built(schema: Any) -> Any:
    """The validator of a schema, or what is wrong with the schema."""
    try:
        text = json.dumps(schema, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return "it is not JSON, or nested too deep"
    if len(text) > _LIMIT:
        return f"it has {len(text)} characters, {_LIMIT} are allowed"
    return _validator(text)


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    schema = _nullable(json.loads(text))
    makers: list[Callable[..., Any]] = [jsonschema_rs.validator_for]
    if isinstance(schema, dict) and "$schema" not in schema:
        makers = [jsonschema_rs.Draft202012Validator, jsonschema_rs.Draft7Validator]
    made = [_made(make, schema) for make in makers]
    return next((each for each in made if not isinstance(each, str)), made[0])


def _made(make: Callable[..., Any], schema: Any) -> Any:
    try:
        return make(schema, validate_formats=True, offline=True, mask="the value")
    except jsonschema_rs.ValidationError as error:
        return f"{_path(error.instance_path)}: {error.message}"[:300]
    except (ValueError, TypeError) as error:  # nested too deep, half a character
        return str(error)[:300]


def _nullable(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_nullable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: part if key in _DATA else _nullable(part) for key, part in schema.items()}
    kinds = schema.get("type")
    if schema.get("nullable") is True and isinstance(kinds, str | list):
        schema["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
    return schema


def _said(error: jsonschema_rs.ValidationError, known: frozenset[str]) -> str:
    """The error in our words, with the path of keys that leads to the value."""
    kind: Any = error.kind
    path = _path(error.instance_path, known)
    if kind.name in ("anyOf", "oneOf"):
        # of `X | null` only X can have been meant
        meant = [found for found in kind.context if found and not _other_type(found, error)]
        if len(meant) == 1 and [] not in kind.context:
            return _said(meant[0][0], known)
        return f"{path} fits {kind.context.count([])} of {len(kind.context)} in {kind.name}"
    if kind.name == "type":
        kinds = " or ".join(sorted(kind.types, key=lambda name: bool(name == "null")))
        return f"{path} is {_TYPES.get(type(error.instance), 'something else')}, expected {kinds}"
    if kind.name == "enum":
        return f"{path} is not one of the {len(kind.options)} allowed values"
    if kind.name == "const":
        return f"{path} is not the one allowed value"
    if kind.name == "required":
        return f"{path} lacks {kind.property!r}"
    if kind.name in ("additionalProperties", "unevaluatedProperties"):
        return f"{path}.* is not allowed"
    if kind.name == "falseSchema":
        return f"{path} is not allowed"
    limit = kind.value if isinstance(kind.value, str | int | float) and not isinstance(kind.value, bool) else None
    return f"{path} breaks {kind.name}" + ("" if limit is None else f" {limit}")


def _other_type(found: list[jsonschema_rs.ValidationError], error: jsonschema_rs.ValidationError) -> bool:
    return bool(found[0].kind.name == "type" and found[0].instance_path == error.instance_path)


def _path(parts: Any, known: frozenset[str] | None = None) -> str:
    """A path as in ``$.days[2]``; names that the schema does not declare are the answer's own, and stand as ``*``."""
    steps = [f"[{part}]" if isinstance(part, int) else f".{part if _shown(part, known) else '*'}" for part in parts]
    return "$" + "".join(steps)


def _shown(part: Any, known: frozenset[str] | None) -> bool:
    return known is None or part in known


def _declared(schema: Any) -> Iterator[str]:
    """Every name of a property in a schema."""
    nodes = [schema]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Mapping):
            if isinstance(node.get("properties"), Mapping):
                yield from node["properties"]
            nodes += [part for key, part in node.items() if key not in _DATA]
        elif isinstance(node, list):
            nodes += node
