"""Keeps models out of an agent's streams while nobody has judged what they say."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers import _streaming
from langgraph.constants import TAG_NOSTREAM

# What LangChain knows the watchers of streams by: those of `astream_events` and of LangGraph's `messages` mode.
_WATCHERS = tuple(
    getattr(_streaming, name)
    for name in ("_StreamingCallbackHandler", "_V2StreamingCallbackHandler")
    if hasattr(_streaming, name)
)

_STREAM = "__pregel_stream"


@contextmanager
def models_unseen() -> Iterator[None]:
    """Hides what models inside say from the streams of the graph that runs here, whichever models they are.

    A model may be wrapped, or another one may stand in for it, so nothing can be done to the model itself.
    """
    config = dict(var_child_runnable_config.get() or {})
    keep_models_quiet(config)
    if isinstance(manager := config.get("callbacks"), BaseCallbackManager):  # a copy by now
        manager.handlers = [handler for handler in manager.handlers if not isinstance(handler, _WATCHERS)]
    token = var_child_runnable_config.set(config)  # type: ignore[arg-type]
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def keep_models_quiet(config: Any) -> None:
    """Change a configuration so that what runs under it is not streamed to the agent's caller.

    A tool itself is still seen. A model inside it, however, would stream as soon as somebody watches.

    Args:
        config: A call's own; LangGraph makes one for each tool call, and has no other place to say this.
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
