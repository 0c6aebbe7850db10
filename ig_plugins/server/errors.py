"""Errors as clients see them: OpenAI's form, without the input."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import ValidationError

from ig_plugins.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InferenceGuardError,
    JudgeTimeoutError,
    NotEnoughMemoryError,
    PromptError,
    RemoteBusyError,
    RemoteError,
    RemoteTimeoutError,
    RequestCancelledError,
)
from ig_plugins.server.gate import BusyError, ClosingError


def refusal(error: InferenceGuardError | ValidationError) -> JSONResponse:
    """The response to a request that failed."""
    if isinstance(error, BusyError):
        return response(429, described(error), {"retry-after": str(error.retry_after)})
    return response(_status(error), described(error))


def response(status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """An error with its status."""
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def described(error: InferenceGuardError | ValidationError) -> dict[str, Any]:
    """An error's type and message."""
    if not isinstance(error, ValidationError):
        return problem(type(error).__name__, str(error))
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"])) or "the body"
    return problem("invalid_request_error", f"{field}: {first['msg']}", param=field)


def problem(kind: str, message: str, *, param: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"type": kind, "message": message, "param": param, "code": None}


def _status(error: BaseException) -> int:
    if isinstance(error, ValidationError):
        return 422
    if isinstance(error, PromptError | ConfigurationError):
        return 400
    if isinstance(error, NotEnoughMemoryError):
        return 503
    if isinstance(error, ClosingError | RequestCancelledError):  # nobody but a server that ends cancels an answer
        return 503
    if isinstance(error, RemoteError) and not isinstance(error, RemoteTimeoutError):
        return 503 if isinstance(error, RemoteBusyError) else 502
    return 504 if isinstance(error, DeadlineExceededError | JudgeTimeoutError | RemoteTimeoutError) else 500
