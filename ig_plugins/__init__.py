"""InferenceGuard's core: guarded decoding for open-weight language models.

Importing this package loads neither torch nor any framework; a name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critic_models.safety.budget import SafetyBudget
    from ig_plugins.call_options import CallOptions
    from ig_plugins.errors import (
        ConfigurationError,
        ContextLengthError,
        DeadlineExceededError,
        DecodingError,
        GuardBlockedError,
        InferenceGuardError,
        JudgeError,
        JudgeTimeoutError,
        LogitsProcessorError,
        MismatchError,
        ModelLoadError,
        NotEnoughMemoryError,
        OutsideCertificateError,
        PromptError,
        ReentrantJudgeError,
        RemoteBusyError,
        RemoteError,
        RemoteReplyError,
        RemoteTimeoutError,
        RemoteUnavailableError,
        RequestCancelledError,
        UnsupportedModelError,
    )
    from ig_plugins.guard.facade import InferenceGuard
    from ig_plugins.guard.request_handle import GuardChunk
    from ig_plugins.guard.result import BlockRecord, GuardResult, Usage
    from ig_plugins.search.config import SearchConfig
    from ig_plugins.search.trace.records import Trace

__version__ = "0.1.0"  # the package's own: pyproject.toml reads it here, and asking for it loads nothing

__all__ = [
    "BlockRecord",
    "CallOptions",
    "ConfigurationError",
    "ContextLengthError",
    "DeadlineExceededError",
    "DecodingError",
    "GuardBlockedError",
    "GuardChunk",
    "GuardResult",
    "InferenceGuard",
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
    "SafetyBudget",
    "SearchConfig",
    "Trace",
    "UnsupportedModelError",
    "Usage",
    "__version__",
]

_HOMES = {
    "BlockRecord": "ig_plugins.guard.result",
    "CallOptions": "ig_plugins.call_options",
    "GuardChunk": "ig_plugins.guard.request_handle",
    "GuardResult": "ig_plugins.guard.result",
    "InferenceGuard": "ig_plugins.guard.facade",
    "SafetyBudget": "critic_models.safety.budget",
    "SearchConfig": "ig_plugins.search.config",
    "Trace": "ig_plugins.search.trace.records",
    "Usage": "ig_plugins.guard.result",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_HOMES.get(name, "ig_plugins.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
