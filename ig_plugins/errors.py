"""The core's errors; those of the judges' storey are re-exported so that users find all of them here."""

from collections.abc import Iterable
from difflib import get_close_matches

from critic_models.errors import (
    ConfigurationError,
    InferenceGuardError,
    JudgeError,
    MismatchError,
    ModelLoadError,
    UnsupportedModelError,
)

__all__ = [
    "ConfigurationError",
    "DeadlineExceededError",
    "GuardBlockedError",
    "InferenceGuardError",
    "JudgeError",
    "MismatchError",
    "ModelLoadError",
    "PromptError",
    "RequestCancelledError",
    "UnsupportedModelError",
    "did_you_mean",
]


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """For the end of a message about an unknown name: the names that are most like it, or nothing."""
    near = get_close_matches(name, list(allowed))
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


class PromptError(InferenceGuardError, ValueError):
    """A prompt that cannot be answered: empty, longer than the model's context, an unknown role."""


class DeadlineExceededError(InferenceGuardError, TimeoutError):
    """The request's time ran out before a verified answer existed. No text was released after that."""


class RequestCancelledError(InferenceGuardError):
    """The caller cancelled the request; decoding stopped at the next step."""


class GuardBlockedError(InferenceGuardError, ValueError):
    """No candidate passed the verifier, and the caller asked for an exception (``on_block="raise"``).

    Attributes:
        report: The guard's report as in ``GuardResult.report()``, without prompt or answer text.
    """

    def __init__(self, message: str, *, report: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}
