"""Errors as clients see them: OpenAI's form, without the input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from pydantic import ValidationError

from ig_plugins.errors import (
    ConfigurationError,
    DeadlineExceededError,
    GuardBlockedError,
    InferenceGuardError,
    JudgeError,
    JudgeTimeoutError,
    NotEnoughMemoryError,
    PromptError,
    RemoteBusyError,
    RemoteError,
    RemoteTimeoutError,
    RequestCancelledError,
    did_you_mean,
)
from ig_plugins.server.faults import report
from ig_plugins.server.gate import BusyError, ClosingError

INVALID = "invalid_request_error"
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


class _Kind(NamedTuple):
    """What becomes of some errors.

    Attributes:
        errors: Their classes.
        status: The HTTP status.
        words: What a client reads, where their own words name the operator's files and addresses.
        fault: Whether they are the service's own, for the operator's log. A service that is busy or about to end is at
            no fault, nor is it when the time is over that a client may have set.
    """

    errors: tuple[type[BaseException], ...]
    status: int
    words: str | None = None
    fault: bool = False


KINDS = (
    _Kind((ValidationError, PromptError, ConfigurationError, GuardBlockedError), 400),
    _Kind((UnknownModelError,), 404),
    _Kind((BusyError,), 429),
    _Kind((NotEnoughMemoryError, ClosingError), 503),
    _Kind((RequestCancelledError,), 503),  # nobody but a server that ends cancels an answer
    _Kind((DeadlineExceededError,), 504),
    _Kind(
        (JudgeTimeoutError,), 504, fault=True,
        words="a judge of this service took too long; no text is released without its verdict, so ask again",
    ),
    _Kind((JudgeError,), 500, "a judge of this service failed; no text is released without its verdict", fault=True),
    _Kind((RemoteBusyError,), 503, "the server behind this model is busy; ask again later"),
    _Kind((RemoteTimeoutError,), 504, "the server behind this model took too long; ask again later", fault=True),
    _Kind((RemoteError,), 502, "the server behind this model failed; nothing of its reply is used", fault=True),
)  # fmt: skip
"""The first that fits."""

OTHER = _Kind((), 500, fault=True)


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
    kind, code = _kind(error), getattr(error, "code", None) or type(error).__name__
    if kind.fault:
        report(error)
    return problem(_type(kind.status), kind.words or str(error), param=getattr(error, "param", None), code=code)


def problem(kind: str, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"type": kind, "message": _short(message), "param": param, "code": code}


def _short(message: str) -> str:
    """A message without the middle of what it repeats, where that is long: a client's own words."""
    return message if len(message) <= LONG else f"{message[: LONG // 2]} … {message[-LONG // 2 :]}"


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    return _kind(error).status


def _kind(error: BaseException) -> _Kind:
    return next((kind for kind in KINDS if isinstance(error, kind.errors)), OTHER)


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
