"""A tool whose call is judged as it starts, whatever has changed it on the way."""

from collections.abc import Callable
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp

JudgeCall = Callable[[str, Any], ToolMessage | None]
"""(name, arguments) -> the result that stands in for a call that must not be made"""


class CallStoppedError(GraphBubbleUp):
    """A call was flagged as its tool started; LangGraph hands it on, whatever it does with a tool's errors.

    Attributes:
        result: What stands in for the tool's result.
    """

    def __init__(self, result: ToolMessage) -> None:
        super().__init__()
        self.result = result


def watched(tool: BaseTool, judge: JudgeCall) -> BaseTool:
    """A copy of a tool that asks before it runs; what runs inside it is not asked about."""
    handler, callbacks = _Handler(judge), tool.callbacks
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(handler, inherit=False)
    else:
        callbacks = [*(callbacks or []), handler]
    return tool.model_copy(update={"callbacks": callbacks})


class _Handler(BaseCallbackHandler):
    raise_error = True  # or LangChain logs it and runs the tool

    def __init__(self, judge: JudgeCall) -> None:
        self._judge = judge

    def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, *, inputs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        stopped = self._judge(serialized["name"], {"input": input_str} if inputs is None else inputs)
        if stopped is not None:
            raise CallStoppedError(stopped)
