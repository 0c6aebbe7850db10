"""`ToolChoiceMiddleware`: when an agent's model must call a tool, and when it is free to answer."""

from collections.abc import Awaitable, Callable
from typing import Any

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
except ImportError as error:
    raise ImportError(
        'ToolChoiceMiddleware needs langchain; install it with: pip install "inferenceguard[agents]"'
    ) from error

from langchain_core.messages import ToolMessage


class ToolChoiceMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Gives an agent's model one `tool_choice` until a tool has answered, and another one afterwards.

    Small models seldom call a tool of their own accord. `create_agent` leaves the choice to the model at every step;
    with a choice that forces calls at every step it would never come to an answer. So a call is forced first, and once
    the tool has answered, the model is free. (LlamaIndex's `FunctionAgent` has `initial_tool_choice` for that.) With
    `ChatInferenceGuard` a forced call is held to the tools' schemas while it is sampled.

    Args:
        first: The choice while the last message is no tool's result: `"any"` for one of the tools, or a tool's name.
        then: The choice behind a result: `"auto"`, or `"none"` for agents of which each turn needs one round of calls.

    Example:
        ```python
        from langchain.agents import create_agent
        from langchain_inferenceguard import ChatInferenceGuard, ToolChoiceMiddleware

        agent = create_agent(ChatInferenceGuard(model="smollm2-135m"), tools, middleware=[ToolChoiceMiddleware("any")])
        ```
    """

    def __init__(self, first: str = "any", *, then: str = "auto") -> None:
        super().__init__()
        self.first, self.then = first, then

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Called by the agent around each call of its model."""
        return handler(self._chosen(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """The same for `ainvoke` and `astream`."""
        return await handler(self._chosen(request))

    def _chosen(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        if not request.tools:
            return request
        answered = bool(request.messages) and isinstance(request.messages[-1], ToolMessage)
        return request.override(tool_choice=self.then if answered else self.first)
