"""Errors that LlamaIndex does not swallow.

Its compact and refine synthesizers catch ``ValueError`` and ``TypeError``, log them, and answer "Empty Response". So
what goes wrong in a call is neither of them here.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ig_plugins.errors import ConfigurationError, ContextLengthError, InferenceGuardError, PromptError


class RequestError(InferenceGuardError):
    """A call that the guard cannot take: its prompt or its settings. The guard's own error is its cause."""


class PromptTooLongError(RequestError):
    """A prompt that leaves no room for its answer."""


class StructuredOutputError(InferenceGuardError):
    """An answer that is no object, or calls no tool, where one was asked for; the message says why."""


NO_OBJECT = "Could not extract json string from output"  # and the answer behind that
QUOTE = re.compile(r" \[type=\w+, input_value=.*\]$", re.MULTILINE)  # pydantic's, which writes it as one line

_kept: ContextVar[list[InferenceGuardError] | None] = ContextVar("_kept", default=None)


@contextmanager
def kept() -> Iterator[list[InferenceGuardError]]:
    """A list of what went wrong in calls within, for where LlamaIndex makes an answer of every error."""
    errors: list[InferenceGuardError] = []
    token = _kept.set(errors)
    try:
        yield errors
    finally:
        _kept.reset(token)


@contextmanager
def loud() -> Iterator[None]:
    """Makes of what is wrong with a call an error that LlamaIndex does not take for an empty answer."""
    try:
        yield
    except InferenceGuardError as error:
        told = _told(error)
        if (errors := _kept.get()) is not None:
            errors.append(told)
        if told is error:
            raise
        raise told from error


def _told(error: InferenceGuardError) -> InferenceGuardError:
    if isinstance(error, ContextLengthError):
        return PromptTooLongError(f"{error}; or retrieve less, or set context_window")
    return RequestError(str(error)) if isinstance(error, (PromptError, ConfigurationError)) else error


@contextmanager
def objects(output_cls: Any) -> Iterator[None]:
    """The same of an answer that LlamaIndex's programs cannot make an object of; nothing of it is quoted.

    Programs warn of errors and engines log them, with their causes, which do quote it.
    """
    try:
        yield
    except (ValueError, TypeError) as error:  # pydantic's ValidationError is the former
        raise StructuredOutputError(f"the answer is no {output_cls.__name__}: {_unquoted(str(error))}") from None


def _unquoted(message: str) -> str:
    return "it holds no JSON object" if message.startswith(NO_OBJECT) else QUOTE.sub("", message)
