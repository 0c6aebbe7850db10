"""Pydantic's validation errors, told in one way."""

from typing import Any

from pydantic import ValidationError


def explain(error: ValidationError, *, values: bool = True) -> str:
    """A validation error in one line: each fault's place, the value there, and what is allowed.

    Args:
        error: What pydantic raised.
        values: Whether to tell values; not where they may be a prompt or an answer.
    """
    return "; ".join(_told(fault, values=values) for fault in error.errors())


def _told(fault: Any, *, values: bool) -> str:
    name, message = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    if not name:
        return str(message)
    if not values or fault["type"] == "missing":  # whose input is all that was given instead
        return f"{name}: {message}"
    return f"{name} is {fault['input']!r}: {message}"
