"""The core's errors; those of the judges' storey are re-exported so that users find all of them here."""

from collections.abc import Iterable
from difflib import get_close_matches

from critic_models.errors import (
    ConfigurationError,
    InferenceGuardError,
    JudgeError,
    JudgeTimeoutError,
    MismatchError,
    ModelLoadError,
    ReentrantJudgeError,
    UnsupportedModelError,
)

__all__ = [
    "ConfigurationError",
    "ContextLengthError",
    "DeadlineExceededError",
    "DecodingError",
    "GuardBlockedError",
    "InferenceGuardError",
    "JudgeError",
    "JudgeTimeoutError",
    "LogitsProcessorError",
    "MismatchError",
    "ModelLoadError",
    "NotEnoughMemoryError",
    "OutsideCertificateError",
    "PromptError",
    "ReentrantJudgeError",
    "RemoteBusyError",
    "RemoteError",
    "RemoteReplyError",
    "RemoteTimeoutError",
    "RemoteUnavailableError",
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


class ContextLengthError(PromptError):
    """A prompt that leaves no room for its answer in the model's context."""


class OutsideCertificateError(ConfigurationError):
    """A call with settings, or a guard with parts, that the guard's certificate does not speak of."""


class DeadlineExceededError(InferenceGuardError, TimeoutError):
    """The request's time ran out before a verified answer existed. No text was released after that."""


class RequestCancelledError(InferenceGuardError):
    """The caller cancelled the request; decoding stopped at the next step."""


class DecodingError(InferenceGuardError):
    """Decoding failed with an error that this project does not know; it is attached as the cause. No text left."""


class LogitsProcessorError(DecodingError):
    """A logits processor of the caller raised, or returned no scores for the tokens; the message names its class."""


class RemoteError(DecodingError):
    """The server that samples for a guard failed, and the message says how. Nothing of what it was asked for left."""


class RemoteUnavailableError(RemoteError, ConnectionError):
    """The server cannot be reached, hung up in the middle of a reply, or failed by its own account (status 5xx)."""


class RemoteBusyError(RemoteError):
    """The server takes no more requests for now (status 429 or 503), and was asked often enough.

    Attributes:
        retry_after: Seconds after which the server wants to be asked again, where it says so.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RemoteTimeoutError(RemoteError, TimeoutError):
    """The server did not reply within ``request_seconds``."""


class RemoteReplyError(RemoteError):
    """The server refused the request, or its reply is not what was asked for; no token of such a reply is used."""


class NotEnoughMemoryError(DecodingError, MemoryError):
    """The host or the device ran out of memory while decoding; no text left."""


class GuardBlockedError(InferenceGuardError):
    """No candidate passed the verifier, and the caller asked for an exception (``on_block="raise"``).

    It is no ``ValueError``: nothing that was given is wrong, and LlamaIndex takes those for an empty answer.

    Attributes:
        report: The guard's report as in ``GuardResult.report()``, without prompt or answer text.
    """

    def __init__(self, message: str, *, report: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}
