"""InferenceGuard as a LlamaIndex LLM: every answer is verified before it leaves the decoder."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("llama_index"):
        raise
    raise ImportError(
        "llama_index.llms.inferenceguard needs llama-index-core, which is not installed; "
        'run: pip install "inferenceguard[llama-index]"'
    ) from error

from ig_plugins.errors import GuardBlockedError
from llama_index.llms.inferenceguard._errors import PromptTooLongError, RequestError, StructuredOutputError
from llama_index.llms.inferenceguard.base import InferenceGuardLLM

__all__ = ["GuardBlockedError", "InferenceGuardLLM", "PromptTooLongError", "RequestError", "StructuredOutputError"]
