"""The part of the LLM that calls functions and predicts structured objects."""

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, cast

from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.agent.react.output_parser import ReActOutputParser
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.types import PydanticProgramMode
from typing_extensions import Self

from ig_plugins.errors import GuardBlockedError, InferenceGuardError
from ig_plugins.guard.result import why_no_call
from llama_index.llms.inferenceguard._asked import held_to, makes_object
from llama_index.llms.inferenceguard._errors import StructuredOutputError, kept, objects

PROGRAMS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")  # keywords that LlamaIndex's programs drop
REQUIRED = {"tool_required": True, "on_block": "raise"}
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
            StructuredOutputError: There is no call, and one was expected.
        """
        calls = [
            ToolSelection(tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]
        streamed = response.message.additional_kwargs.get("tool_calls", ())  # of `whole_object`
        calls = calls or [each for each in streamed if isinstance(each, ToolSelection)]
        if calls or not error_on_no_tool_call:
            return calls
        report = (response.raw or {}).get("inference_guard", {})
        if report.get("blocked"):
            raise GuardBlockedError(f"no tool call: the guard refused ({report.get('reason')})", report=report)
        advice = "pass tool_required=True to force a call, or error_on_no_tool_call=False to accept the answer"
        wordy = report.get("finish_reason") == "stop" and not report.get("invalid_tool_calls")
        said = f"there is no tool call: {why_no_call(report)}" + (f"; {advice}" if wordy else "")
        raise StructuredOutputError(said)

    # Where the template knows no tools, LlamaIndex asks in ReAct's words, and makes an answer of every error.

    def predict_and_call(
        self, tools: Sequence[Any], *args: Any, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> AgentChatResponse:
        """As in LlamaIndex, with errors that stay errors.

        Raises:
            GuardBlockedError: The guard refuses.
            StructuredOutputError: There is no call, and one was expected.
        """
        if self.metadata.is_function_calling_model:
            return super().predict_and_call(tools, *args, error_on_no_tool_call=error_on_no_tool_call, **kwargs)
        with kept() as errors:
            found = FunctionCallingLLM.predict_and_call(self._strict(), tools, *args, **{**_react(), **kwargs})
        return _called(found, errors, expected=error_on_no_tool_call)

    async def apredict_and_call(
        self, tools: Sequence[Any], *args: Any, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> AgentChatResponse:
        """As `predict_and_call`."""
        if self.metadata.is_function_calling_model:
            return await super().apredict_and_call(tools, *args, error_on_no_tool_call=error_on_no_tool_call, **kwargs)
        with kept() as errors:
            found = await FunctionCallingLLM.apredict_and_call(self._strict(), tools, *args, **{**_react(), **kwargs})
        return _called(found, errors, expected=error_on_no_tool_call)

    def _strict(self) -> Self:
        """This LLM, whose refusals are errors."""
        return cast(Self, self.model_copy(update={"on_block": "raise"}))

    # LlamaIndex's programs stream an object without saying that its call is required.

    def stream_chat_with_tools(self, tools: Sequence[Any], *args: Any, **kwargs: Any) -> ChatResponseGen:
        """As in LlamaIndex; where the tool stands for a class, one item at the end, with its call."""
        if not tools or not makes_object(tools):
            return super().stream_chat_with_tools(tools, *args, **kwargs)
        return self._last_call(super().stream_chat_with_tools(tools, *args, **{**kwargs, **REQUIRED}))

    async def astream_chat_with_tools(self, tools: Sequence[Any], *args: Any, **kwargs: Any) -> ChatResponseAsyncGen:
        """As in LlamaIndex; where the tool stands for a class, one item at the end, with its call."""
        if not tools or not makes_object(tools):
            return await super().astream_chat_with_tools(tools, *args, **kwargs)
        return self._alast_call(await super().astream_chat_with_tools(tools, *args, **{**kwargs, **REQUIRED}))

    def _last_call(self, items: ChatResponseGen) -> ChatResponseGen:
        *_, last = items
        yield self._with_call(last)

    async def _alast_call(self, items: ChatResponseAsyncGen) -> ChatResponseAsyncGen:
        yield self._with_call([item async for item in items][-1])

    def _with_call(self, response: ChatResponse) -> ChatResponse:
        """The answer with its call where LlamaIndex's programs look for it in a stream."""
        response.message.additional_kwargs["tool_calls"] = self.get_tool_calls_from_response(response)
        return response

    # Structured prediction: a refusal is no object, so it becomes an exception that carries the report.

    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """As in LlamaIndex, with errors that its synthesizers do not take for an empty answer.

        Raises:
            GuardBlockedError: The guard refuses.
            StructuredOutputError: The answer is no object of the class.
        """
        held = self._held(output_cls, llm_kwargs)
        with objects(output_cls):
            return super().structured_predict(output_cls, prompt, held, **prompt_args)

    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """As `structured_predict`."""
        held = self._held(output_cls, llm_kwargs)
        with objects(output_cls):
            return await super().astructured_predict(output_cls, prompt, held, **prompt_args)

    def _structured_stream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """One object: half an object is not verified, and LlamaIndex would fill it up with guesses."""
        held = self._held(output_cls, llm_kwargs)
        with objects(output_cls):
            program = get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode)
            found = program(llm_kwargs=held, **prompt_args)
        yield _readable(found)

    async def _structured_astream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        held = self._held(output_cls, llm_kwargs)

        async def once() -> AsyncGenerator[Any, None]:
            with objects(output_cls):
                program = get_program_for_llm(
                    output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode
                )
                found = await program.acall(llm_kwargs=held, **prompt_args)
            yield _readable(found)

        return once()

    def as_structured_llm(self, output_cls: Any, **kwargs: Any) -> StructuredLLM:
        """As in LlamaIndex."""
        return GuardedStructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _held(self, output_cls: Any, llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """The call's keywords with what holds its answer to the class, where LlamaIndex asks for a text.

        Where it forces a call, that call is held to its schema anyway.

        Raises:
            TypeError: A keyword that is no option.
        """
        given = {**(llm_kwargs or {}), "on_block": "raise"}
        self.call_options(**{name: value for name, value in given.items() if name not in PROGRAMS})
        if self.metadata.is_function_calling_model and self.pydantic_program_mode in FORCED:
            return given
        return {**given, **held_to(output_cls.model_json_schema(), given=given)}


class GuardedStructuredLLM(StructuredLLM):  # type: ignore[misc]
    """LlamaIndex's own, whose streams say what they add: chat engines show and remember nothing else."""

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """As in LlamaIndex, with the object as the only delta."""
        for item in super().stream_chat(messages, **kwargs):
            yield _with_delta(item)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As in LlamaIndex, with the object as the only delta."""
        items = await super().astream_chat(messages, **kwargs)

        async def said() -> ChatResponseAsyncGen:
            async for item in items:
                yield _with_delta(item)

        return said()


def _react() -> dict[str, Any]:
    """What LlamaIndex's ReAct agent needs, and gets none of where nobody gives it."""
    return {"react_chat_formatter": ReActChatFormatter(), "output_parser": ReActOutputParser()}


def _called(found: AgentChatResponse, errors: Sequence[InferenceGuardError], *, expected: bool) -> AgentChatResponse:
    """What a tool gave; where none was called, the error of the call that was to name it."""
    if not found.sources and errors:
        raise errors[0]
    if not found.sources and expected:
        raise StructuredOutputError(
            "there is no tool call: the model wrote no action in the form that ReAct's parser reads; "
            "pass error_on_no_tool_call=False to accept that"
        )
    return found


def _with_delta(item: ChatResponse) -> ChatResponse:
    item.delta = item.message.content
    return item


def _readable(found: Any) -> Any:
    """An object that LlamaIndex's streamed refine can read: of any class it looks for an ``answer``, and nothing else.

    A class without one would be an empty answer to it. What stands in an object's ``__dict__`` beside its fields is no
    part of it to pydantic, which keeps cached properties there.
    """
    if not hasattr(found, "answer"):
        vars(found)["answer"] = found.model_dump_json()
    return found
