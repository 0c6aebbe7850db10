"""Keeps models that a tool calls out of the agent's streams: nobody has judged what they say."""

from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.tracers import _streaming
from langgraph.constants import TAG_NOSTREAM

# What LangChain knows the watchers of streams by: those of `astream_events` and of LangGraph's `messages` mode.
_WATCHERS = tuple(
    getattr(_streaming, name)
    for name in ("_StreamingCallbackHandler", "_V2StreamingCallbackHandler")
    if hasattr(_streaming, name)
)

_STREAM = "__pregel_stream"


def keep_models_quiet(config: Any) -> None:
    """Change a tool call's own configuration so that what runs inside the tool is not streamed to the agent's caller.

    The tool itself is still seen. A model inside it, however, would stream as soon as somebody watches.

    Args:
        config: The tool call's; LangGraph makes one for each call, and has no other place to say this.
    """
    manager = config.get("callbacks")
    if not isinstance(manager, BaseCallbackManager):
        return
    manager = manager.copy()
    manager.add_tags([TAG_NOSTREAM])
    manager.inheritable_handlers = [h for h in manager.inheritable_handlers if not isinstance(h, _WATCHERS)]
    config["callbacks"] = manager
    # A graph that a tool runs would write its steps into the streams of the agent that runs it.
    inner = config.get("configurable")
    if isinstance(inner, dict):
        config["configurable"] = {key: value for key, value in inner.items() if key != _STREAM}
