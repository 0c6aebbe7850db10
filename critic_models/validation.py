"""Pydantic's validation errors, told in one way."""

from pydantic import ValidationError


def explain(error: ValidationError, *, values: bool = True) -> str:
    """A validation error in one line: each fault's place, the value there, and what is allowed.

    Args:
        error: What pydantic raised.
        values: Whether to tell values; not where they may be a prompt or an answer.
    """
    return "; ".join(_told(fault["loc"], fault["msg"], fault["input"], values) for fault in error.errors())


def _told(place: tuple[int | str, ...], message: str, value: object, values: bool) -> str:
    name, message = ".".join(map(str, place)), message.removeprefix("Value error, ")
    if not name:
        return message
    return f"{name} is {value!r}: {message}" if values else f"{name}: {message}"
