"""JSON as it must be where it is going to be executed: nothing is repaired, and nothing is read in two ways."""

import json
from typing import Any


class NotACallError(ValueError):
    """A region that is not a valid call; the message says why, without quoting it.

    Attributes:
        start: Up to where the answer surely holds no call; -1 where that is not known.
    """

    start: int = -1


def json_object(text: str) -> tuple[dict[str, Any], int]:
    """The JSON object that a text begins with, and where it ends."""
    value, end = json_value(text)
    if not isinstance(value, dict):
        raise NotACallError("the call is not a JSON object")
    return value, end


def json_value(text: str) -> tuple[Any, int]:
    """Strict JSON and where it ends: no NaN, no key twice (a judge and a tool might read different ones)."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) < len(items):
            raise NotACallError("a key of the call is given twice")
        return dict(items)

    def constant(name: str) -> Any:
        raise NotACallError(f"{name} is not JSON")

    try:
        return json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant).raw_decode(text)
    except NotACallError:
        raise
    except (ValueError, RecursionError):  # numbers of thousands of digits are a plain ValueError
        raise NotACallError("the call is not JSON, or was cut off") from None
