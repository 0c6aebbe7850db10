"""JSON that can be read in one way only: what two readers might understand otherwise is none."""

from __future__ import annotations

import json
from typing import Any


def loads(content: bytes) -> Any:
    """The value of a document in UTF-8.

    Raises:
        ValueError: It is no JSON, nested too deeply, holds a key twice in one object, or NaN or an infinity by name.
    """
    try:
        return _STRICT.decode(content.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_once_each, parse_constant=_no_constant)
