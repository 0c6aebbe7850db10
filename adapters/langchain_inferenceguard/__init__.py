"""InferenceGuard for LangChain: guarded decoding behind `BaseLLM`, `BaseChatModel` and agent middleware.

    prompt or messages -> the guard's chat format -> block search under a safety budget -> verifier
                       -> text or AIMessage, streamed only as far as it has been verified,
                          with the guard's report in the metadata of the last chunk

`ChatInferenceGuard` is for chat and agents, `InferenceGuardLLM` for plain text chains, and `InferenceGuardMiddleware`
(needs `langchain`, extra `agents`) for agents that run on somebody else's model. `ToolChoiceMiddleware` (likewise) says
when an agent's model must call a tool.
"""

from typing import TYPE_CHECKING, Any

try:
    import langchain_core
except ImportError as error:
    raise ImportError(
        'langchain_inferenceguard needs langchain-core; install it with: pip install "inferenceguard[langchain]"'
    ) from error

from ig_plugins import __version__
from ig_plugins.errors import GuardBlockedError
from langchain_inferenceguard.chat_models import ChatInferenceGuard
from langchain_inferenceguard.llms import InferenceGuardLLM

if TYPE_CHECKING:
    from langchain_inferenceguard.middleware import InferenceGuardMiddleware
    from langchain_inferenceguard.tool_choice import ToolChoiceMiddleware

__all__ = [
    "ChatInferenceGuard",
    "GuardBlockedError",
    "InferenceGuardLLM",
    "InferenceGuardMiddleware",
    "ToolChoiceMiddleware",
    "__version__",
]

del langchain_core


def __getattr__(name: str) -> Any:
    """Imports the middleware when it is asked for: it needs `langchain`, the models only `langchain-core`."""
    if name == "InferenceGuardMiddleware":
        from langchain_inferenceguard.middleware import InferenceGuardMiddleware

        return InferenceGuardMiddleware
    if name == "ToolChoiceMiddleware":
        from langchain_inferenceguard.tool_choice import ToolChoiceMiddleware

        return ToolChoiceMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
