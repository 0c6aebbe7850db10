"""The part of the LLM that calls functions and predicts structured objects."""

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.types import PydanticProgramMode

from ig_plugins.errors import GuardBlockedError
from ig_plugins.grammar import KINDS, installed
from ig_plugins.guard.result import why_no_call

FORCED = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)  # of these the former asks the metadata


class GuardedToolCalls(FunctionCallingLLM):  # type: ignore[misc]
    """Tool calls and structured prediction. A call is whole and verified, or there is none."""

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments for ``chat``: messages, tools in the OpenAI format, and which of them must be called."""
        messages = list(chat_history or [])  # the caller's list stays as it is
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        choice = kwargs.pop("tool_choice", None)
        if not tools:
            return {"messages": messages, **kwargs}
        if choice is None:
            choice = "any" if tool_required else "auto"
        return {
            "messages": messages,
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
            "tool_choice": choice,
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[Any],
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Nothing is left to check: ``chat`` knows the tools, and the guard emits whole calls of known tools only."""
        return response

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of an answer.

        Raises:
            GuardBlockedError: There is no call because the guard refused, and one was expected.
            ValueError: There is no call, and one was expected.
        """
        calls = [
            ToolSelection(tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]
        if calls or not error_on_no_tool_call:
            return calls
        report = (response.raw or {}).get("inference_guard", {})
        if report.get("blocked"):
            raise GuardBlockedError(f"no tool call: the guard refused ({report.get('reason')})", report=report)
        advice = "pass tool_required=True to force a call, or error_on_no_tool_call=False to accept the answer"
        wordy = report.get("finish_reason") == "stop" and not report.get("invalid_tool_calls")
        raise ValueError(f"there is no tool call: {why_no_call(report)}" + (f"; {advice}" if wordy else ""))

    # Structured prediction: a refusal is no object, so it becomes an exception that carries the report.

    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """As in LlamaIndex; raises GuardBlockedError, a ValueError, where the guard refuses."""
        return super().structured_predict(output_cls, prompt, self._held(output_cls, llm_kwargs), **prompt_args)

    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """As in LlamaIndex; raises GuardBlockedError, a ValueError, where the guard refuses."""
        return await super().astructured_predict(output_cls, prompt, self._held(output_cls, llm_kwargs), **prompt_args)

    def _structured_stream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """One object: half an object is not verified, and LlamaIndex would fill it up with guesses."""
        program = get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode)
        yield program(llm_kwargs=self._held(output_cls, llm_kwargs), **prompt_args)

    async def _structured_astream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        program = get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode)

        async def once() -> AsyncGenerator[Any, None]:
            yield await program.acall(llm_kwargs=self._held(output_cls, llm_kwargs), **prompt_args)

        return once()

    def _held(self, output_cls: Any, llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """The call's keywords with what holds its answer to the class, where LlamaIndex asks for a text.

        Where it forces a call, that call is held to its schema anyway.
        """
        given = {**(llm_kwargs or {}), "on_block": "raise"}
        forces = self.metadata.is_function_calling_model and self.pydantic_program_mode in FORCED
        if forces or not installed() or set(given) & set(KINDS):
            return given
        return {**given, "json_schema": {"x-guidance": {"lenient": True}, **output_cls.model_json_schema()}}
