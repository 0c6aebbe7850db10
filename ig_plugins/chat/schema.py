"""As much of JSON Schema as tool arguments need; what it does not know it lets pass, as JSON Schema does."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int, float),
}
_DEPTH = 64


def schema_problem(value: Any, schema: Any, *, root: Mapping[str, Any] | None = None, path: str = "$") -> str | None:
    """Say where ``value`` breaks ``schema``, or None where it does not.

    Understood: type (one, several, nullable), enum, const, required, properties, additionalProperties, items, anyOf,
    oneOf, allOf and local ``$ref``. The values themselves are not quoted, so that the text may go to a log.

    Args:
        value: Parsed JSON.
        schema: A JSON schema, or True / {} for anything.
        root: The document that ``$ref`` looks into; the schema itself by default.
        path: Where we are, for the message.
    """
    return _problem(value, schema, root if root is not None else schema, path, 0)


def _problem(value: Any, schema: Any, root: Any, path: str, depth: int) -> str | None:
    if depth > _DEPTH:
        return f"{path} is nested more than {_DEPTH} deep"
    if schema is False:
        return f"{path} is not allowed"
    if not isinstance(schema, Mapping):
        return None
    if isinstance(reference := schema.get("$ref"), str):
        target = _resolve(reference, root)
        return None if target is None else _problem(value, target, root, path, depth + 1)
    checks = (_scalar(value, schema, path), _unions(value, schema, root, path, depth))
    if problem := next((p for p in checks if p), None):
        return problem
    if isinstance(value, dict):
        return _object(value, schema, root, path, depth)
    if isinstance(value, list) and "items" in schema:
        each = (_problem(item, schema["items"], root, f"{path}[{i}]", depth + 1) for i, item in enumerate(value))
        return next((p for p in each if p), None)
    return None


def _scalar(value: Any, schema: Mapping[str, Any], path: str) -> str | None:
    declared = schema.get("type")
    kinds = [declared] if isinstance(declared, str) else list(declared or ())
    if kinds and schema.get("nullable"):
        kinds.append("null")
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{path} is {_kind(value)}, expected {' or '.join(kinds)}"
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return f"{path} is not one of the {len(schema['enum'])} allowed values"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{path} is not the one allowed value"
    return None


def _unions(value: Any, schema: Mapping[str, Any], root: Any, path: str, depth: int) -> str | None:
    for key in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(key)
        if not isinstance(choices, Sequence) or not choices:
            continue
        problems = [_problem(value, choice, root, path, depth + 1) for choice in choices]
        fits = problems.count(None)
        if (key == "anyOf" and fits == 0) or (key == "oneOf" and fits != 1) or (key == "allOf" and fits < len(choices)):
            return f"{path} fits {fits} of {len(choices)} in {key}"
    return None


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Any, path: str, depth: int) -> str | None:
    missing = [key for key in schema.get("required") or () if key not in value]
    if missing:
        return f"{path} lacks {missing[0]!r}"
    properties = schema.get("properties") or {}
    for key, item in value.items():
        part = properties[key] if key in properties else schema.get("additionalProperties")
        if problem := _problem(item, part, root, f"{path}.{key}" if key in properties else f"{path}.*", depth + 1):
            return problem
    return None


def _resolve(reference: str, root: Any) -> Any:
    node = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    if isinstance(value, float) and (not math.isfinite(value) or (kind == "integer" and not value.is_integer())):
        return False
    return isinstance(value, _TYPES.get(kind, (object,)))


def _same(value: Any, allowed: Any) -> bool:
    # True == 1 in Python, not in JSON
    return isinstance(value, bool) is isinstance(allowed, bool) and bool(value == allowed)


def _kind(value: Any) -> str:
    return next((kind for kind in _TYPES if _is(value, kind)), type(value).__name__)
