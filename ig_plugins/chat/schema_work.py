"""How much work a schema makes of a value, counted before it is done.

References multiply: thirty definitions that name the next one twice are a billion checks. The library that checks
cannot be stopped once it runs, and schemas may come from anybody who may send tools.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

DEPTH = 64
STEPS = 20_000

_HERE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
_BELOW = (
    "additionalProperties", "unevaluatedProperties", "patternProperties",
    "items", "prefixItems", "additionalItems", "unevaluatedItems", "contains",
)  # fmt: skip
_BY_NAME = ("dependentSchemas", "dependencies", "patternProperties")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def too_much(value: Any, schema: Any) -> str | None:
    """Say that a value is nested too deep, or that checking it would take too long; None where neither is so.

    Every pair of a value and a schema that may be looked at is one step; what may be looked at is counted generously.

    Args:
        value: Parsed JSON.
        schema: A JSON schema.
    """
    targets = _Targets(schema)
    open_pairs: list[tuple[Any, Any, int]] = [(schema, value, 0)]
    steps = 0
    while open_pairs:
        node, part, depth = open_pairs.pop()
        steps += 1
        if depth > DEPTH:
            return f"$ is nested more than {DEPTH} deep, or its schema never ends"
        if steps > STEPS:
            return f"$ takes more than {STEPS} steps to be held against its schema"
        inner = list(part.values()) if isinstance(part, dict) else part if isinstance(part, list) else []
        if not isinstance(node, Mapping):
            open_pairs += [(node, item, depth + 1) for item in inner]
            continue
        open_pairs += [(each, part, depth + 1) for each in _same_place(node, targets)]
        below = list(_parts(node, _BELOW)) or [True]
        open_pairs += [(each, item, depth + 1) for item in inner for each in below]
        named = node.get("properties")
        if isinstance(named, Mapping) and isinstance(part, dict):
            open_pairs += [(named[key], item, depth + 1) for key, item in part.items() if key in named]
    return None


def _same_place(node: Mapping[str, Any], targets: "_Targets") -> Iterator[Any]:
    """The schemas that speak of the same value as this one."""
    yield from _parts(node, _HERE)
    for key in _REFERENCES:
        if isinstance(node.get(key), str):
            yield from targets.of(node[key])


def _parts(node: Mapping[str, Any], keys: Iterable[str]) -> Iterator[Any]:
    """The schemas under some keywords."""
    for key in keys:
        part = node.get(key)
        if isinstance(part, list):
            yield from part
        elif key in _BY_NAME and isinstance(part, Mapping):
            yield from part.values()
        elif part is not None:
            yield part


class _Targets:
    """Where references of a schema may lead: several places where that is not plain, as too many do no harm."""

    def __init__(self, schema: Any) -> None:
        self._roots: list[Any] = [schema]
        self._anchors: dict[str, list[Any]] = {}
        self._names: dict[str, list[Any]] = {}
        nodes: list[Any] = [schema]
        while nodes:
            node = nodes.pop()
            if isinstance(node, list):
                nodes += node
            if not isinstance(node, Mapping):
                continue
            nodes += node.values()
            for key in ("$anchor", "$dynamicAnchor"):
                self._anchors.setdefault(str(node.get(key)), []).append(node)
            for key in ("$id", "id"):
                if isinstance(node.get(key), str):
                    base, _, anchor = node[key].partition("#")
                    self._anchors.setdefault(anchor, []).append(node)
                    self._names.setdefault(_last(base), []).append(node)
                    self._roots.append(node)

    def of(self, reference: str) -> Iterator[Any]:
        base, _, fragment = reference.partition("#")
        roots = self._names.get(_last(base), []) if base else self._roots
        if not fragment:
            yield from roots if base else roots[:1]
        elif fragment.startswith("/"):
            yield from (found for root in roots if (found := _at(root, fragment)) is not None)
        else:
            yield from self._anchors.get(fragment, [])


def _last(address: str) -> str:
    return unquote(address).rsplit("/", 1)[-1]


def _at(node: Any, pointer: str) -> Any:
    for step in unquote(pointer).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node
