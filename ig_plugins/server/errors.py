"""Errors as clients see them: OpenAI's form, without the input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import ValidationError

from ig_plugins.errors import (
    ConfigurationError,
    DeadlineExceededError,
    GuardBlockedError,
    InferenceGuardError,
    JudgeTimeoutError,
    NotEnoughMemoryError,
    PromptError,
    RemoteBusyError,
    RemoteError,
    RemoteTimeoutError,
    RequestCancelledError,
    did_you_mean,
)
from ig_plugins.server import faults
from ig_plugins.server.gate import BusyError, ClosingError

INVALID = "invalid_request_error"
FAULTS = (500, 502, 504)  # a busy or ending service is none
LONG = 1_000  # characters of a message
LONGEST = 80  # characters of a client's own name for a field that an error repeats


class FieldError(ConfigurationError):
    """A field of a request that says what this service does not do.

    Attributes:
        param: The field.
    """

    code = "unsupported_value"

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class UnknownModelError(InferenceGuardError):
    """A model that is not served."""

    code, param = "model_not_found", "model"


def refusal(error: InferenceGuardError | ValidationError, *, fields: Iterable[str] = ()) -> JSONResponse:
    """The response to a request that failed.

    Args:
        error: Why.
        fields: What the request may say, for suggestions.
    """
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, BusyError) else None
    return response(status_of(error), described(error, fields=fields), headers)


def response(status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """An error with its status."""
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def described(error: InferenceGuardError | ValidationError, *, fields: Iterable[str] = ()) -> dict[str, Any]:
    """An error's type, message, field and code: OpenAI's where there is one, else the name of the guard's exception.

    What is no fault of the client is logged as well, with its cause.
    """
    if isinstance(error, ValidationError):
        return _misread(error, fields)
    status, code = status_of(error), getattr(error, "code", None) or type(error).__name__
    if status in FAULTS:
        faults.report(error)
    return problem(_type(status), faults.public(error), param=getattr(error, "param", None), code=code)


def problem(kind: str, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"type": kind, "message": _short(message), "param": param, "code": code}


def _short(message: str) -> str:
    """A message without the middle of what it repeats, where that is long: a client's own words."""
    return message if len(message) <= LONG else f"{message[: LONG // 2]} … {message[-LONG // 2 :]}"


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    if isinstance(error, ValidationError | PromptError | ConfigurationError | GuardBlockedError):
        return 400
    if isinstance(error, UnknownModelError):
        return 404
    if isinstance(error, BusyError):
        return 429
    # Nobody but a server that ends cancels an answer.
    if isinstance(error, NotEnoughMemoryError | ClosingError | RequestCancelledError):
        return 503
    if isinstance(error, RemoteError) and not isinstance(error, RemoteTimeoutError):
        return 503 if isinstance(error, RemoteBusyError) else 502
    return 504 if isinstance(error, DeadlineExceededError | JudgeTimeoutError | RemoteTimeoutError) else 500


def _type(status: int) -> str:
    return {429: "rate_limit_error"}.get(status, INVALID if status < 500 else "server_error")


def _misread(error: ValidationError, fields: Iterable[str]) -> dict[str, Any]:
    """The first fault of a body; what the client wrote there is not repeated, names of fields apart."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))[:LONGEST]
    if first["type"] == "extra_forbidden":
        meant = did_you_mean(field, fields) if len(first["loc"]) == 1 else ""
        message = f"{field}: this service does not know this field, and ignores none.{meant}"
    elif first["type"] == "json_invalid":
        message, field = "the body is no JSON", ""
    else:
        message = f"{field or 'the body'}: {first['msg']}"
    return problem(INVALID, message, param=field or None)
