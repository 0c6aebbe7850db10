"""The LLM class: eight methods, each a thin shell around the guard."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.generic_utils import messages_to_prompt as default_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import default_completion_to_prompt
from typing_extensions import Self

from critic_models.identity import describe, digest
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.adapter_fields import GuardFields
from llama_index.llms.inferenceguard._asked import asked_schema, held_to, whole_object
from llama_index.llms.inferenceguard._convert import chat_response, completion_response, to_messages
from llama_index.llms.inferenceguard._counting import count_with
from llama_index.llms.inferenceguard._errors import loud
from llama_index.llms.inferenceguard._tools import GuardedToolCalls

Reply = TypeVar("Reply", ChatResponse, CompletionResponse)
Prompt = str | list[dict[str, Any]]
BY_NAME = {"by_name": True}  # a dump's context: what can be stored and loaded again, and not what it is


class InferenceGuardLLM(GuardFields, CustomLLM, GuardedToolCalls):  # type: ignore[misc]
    """A local model whose every answer has passed a cost model, streams included.

    Fields and options of a call are those of the core, see ``docs/llama_index.md``; unknown ones are errors. Weights
    are loaded at the first use and shared by all that name the same checkpoint; copies and pickles never carry them.

    Streams are cumulative: each item has the text so far and what it adds. If the guard blocks, the last item's text is
    the refusal alone, so that no agent acts on a text that was stopped. ``raw`` of an answer, or of a stream's last
    item, has ``model``, ``usage``, ``finish_reason`` and the guard's report ``inference_guard``.

    Examples:
        `pip install "inferenceguard[llama-index]"`

        ```python
        from llama_index.core import Settings
        from llama_index.llms.inferenceguard import InferenceGuardLLM

        llm = InferenceGuardLLM(model="tiny-beaver")  # bundled; or a hub id or folder, with a cost_model
        response = llm.complete("How do I clean the window?")
        print(response.text)
        print(response.raw["inference_guard"]["blocked"])  # False

        for item in llm.stream_complete("How do I clean the window?"):
            print(item.delta, end="")  # verified text only

        Settings.llm = llm  # all that a pipeline needs
        ```

    Blocked requests:
        ``on_block="refuse"`` answers with ``refusal`` and ``finish_reason="content_filter"``, ``"raise"`` raises
        ``GuardBlockedError``, ``"empty"`` gives an empty text. Structured prediction always raises.

    Tools:
        Calls come as ``ToolCallBlock``s with ids of their own, in the last item of a stream: whole, checked against the
        tool's schema and judged, or not at all.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    context_window: int | None = Field(
        default=None, gt=0, description="Tokens that LlamaIndex plans with; the model's own context by default."
    )
    is_function_calling_model: bool | None = Field(
        default=None,
        description="Whether agents and routers shall call tools; by default, if the template knows tools.",
    )

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores this class."""
        return "InferenceGuardLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans with, from the model's own configuration. Loads the model on first use.

        What the chat template itself takes is not in the window. LlamaIndex counts tokens of other models unless told
        otherwise; where nobody has, it counts with this model's tokenizer from now on.
        """
        guard = self.guard
        count_with(guard.tokenizer)
        calls = self.is_function_calling_model if self.is_function_calling_model is not None else guard.calls_tools
        return LLMMetadata(
            context_window=(self.context_window or guard.context or DEFAULT_CONTEXT_WINDOW) - _template_tokens(guard),
            num_output=self.max_tokens or guard.search.max_new_tokens,
            is_chat_model=True,
            is_function_calling_model=calls and not self._own_prompt_format,
            model_name=self.model,
            system_role=MessageRole.SYSTEM,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events say about this LLM. Never loads the model: events fire on the event loop."""
        known = self.metadata.model_dump(mode="json") if self.is_loaded else {"model_name": self.model}
        return {"class_name": self.class_name(), **known}

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """What LlamaIndex stores: names and settings, from which ``from_dict`` makes this LLM again.

        Raises:
            ValueError: It wraps a guard object, for which no name stands.
        """
        if self.wraps_guard:
            raise ValueError(
                "this InferenceGuardLLM was made with from_guard(guard), which a dict cannot say; "
                "name the models as fields instead, or pickle it within this process"
            )
        return cast(dict[str, Any], super().to_dict(context=BY_NAME, **kwargs))

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Makes this LLM again from what ``to_dict`` or ``model_dump`` gave.

        Raises:
            ModelLoadError: It wraps a guard of another process.
        """
        return cast(Self, super().from_dict({key: part for key, part in data.items() if key != "identity"}, **kwargs))

    @model_serializer(mode="wrap")  # type: ignore[untyped-decorator]
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """What stands for this LLM in the transformations of a pipeline, and so in the key of its ingestion cache.

        The fields alone would be a poor key: LlamaIndex cuts the address out of a function's ``repr``, and two cost
        models of one name would share their answers. So this says what the guard is; it is loaded for that.
        """
        data = {**handler(self), "class_name": self.class_name()}
        if info.context is not BY_NAME:
            around = (self.messages_to_prompt, self.completion_to_prompt, self.output_parser, self.query_wrapper_prompt)
            guard = self.guard.with_options(**self.call_options())
            data["identity"] = digest([guard.identity(), [describe(each) for each in around]])
        return data

    # The eight methods. Each is decorated once, and none calls another: one start and one end event a call.

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers a conversation; the answer is verified, or it is the refusal."""
        return self._answer(*self._chat_request(messages, kwargs, self._asked_schema(messages, kwargs)))

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Streams verified text; if the guard blocks, the last item's message is the refusal alone.

        Where LlamaIndex asks for an object in words, it is one item: of half an object it would make a whole one.
        """
        schema = self._asked_schema(messages, kwargs)
        answer = self._stream if schema is None else self._once
        return answer(*self._chat_request(messages, kwargs, schema))

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """``chat``, without blocking the event loop; cancelling stops decoding."""
        return await self._aanswer(*self._chat_request(messages, kwargs, self._asked_schema(messages, kwargs)))

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """``stream_chat``, without blocking the event loop; leaving the loop stops decoding."""
        schema = self._asked_schema(messages, kwargs)
        answer = self._astream if schema is None else self._aonce
        return answer(*self._chat_request(messages, kwargs, schema))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answers a prompt: one user turn, or the very text that the model sees if ``formatted``."""
        return self._answer(*self._completion_request(prompt, formatted, kwargs))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """``complete`` as a stream, as ``stream_chat``."""
        return self._stream(*self._completion_request(prompt, formatted, kwargs))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """``complete``, without blocking the event loop; cancelling stops decoding."""
        return await self._aanswer(*self._completion_request(prompt, formatted, kwargs))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """``stream_complete``, without blocking the event loop; leaving the loop stops decoding."""
        return self._astream(*self._completion_request(prompt, formatted, kwargs))

    # What they share: a request is (prompt, options, how a reply looks).

    @property
    def _own_prompt_format(self) -> bool:
        """The user gave ``messages_to_prompt``, which knows nothing of tools."""
        return self.messages_to_prompt is not default_messages_to_prompt

    def _chat_request(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any], schema: dict[str, Any] | None
    ) -> tuple[Prompt, dict[str, Any], Callable[..., ChatResponse]]:
        parallel = kwargs.pop("allow_parallel_tool_calls", True)
        options = self.call_options(**{**_for_object(schema, kwargs), **kwargs})
        reply = partial(chat_response, self.model, parallel=parallel)
        if not self._own_prompt_format:
            return to_messages(messages, system_prompt=self.system_prompt), options, reply
        if options.get("tools"):
            raise ConfigurationError(
                "tools and messages_to_prompt are both given, but only the model's own chat format can show tools; "
                "leave messages_to_prompt out"
            )
        return self.messages_to_prompt(messages), {**options, "raw_prompt": True}, reply

    def _asked_schema(self, messages: Sequence[ChatMessage], given: dict[str, Any]) -> dict[str, Any] | None:
        """The schema of the object that a call asks for in words; None where it asks for none, or for calls."""
        return None if given.get("tools") else asked_schema(messages, system_prompt=self.system_prompt)

    def _completion_request(
        self, prompt: str, formatted: bool, kwargs: dict[str, Any]
    ) -> tuple[Prompt, dict[str, Any], Callable[..., CompletionResponse]]:
        options = self.call_options(**kwargs)
        reply = partial(completion_response, self.model)
        if not formatted and self.completion_to_prompt is not default_completion_to_prompt:
            prompt, formatted = self.completion_to_prompt(prompt), True
        if formatted:
            return prompt, {**options, "raw_prompt": True}, reply
        message = ChatMessage(role=MessageRole.USER, content=prompt)
        return to_messages([message], system_prompt=self.system_prompt), options, reply

    def _answer(self, prompt: Prompt, options: dict[str, Any], reply: Callable[..., Reply]) -> Reply:
        with loud():
            result = self.guard.generate(prompt, **options)
        return reply(result.content, result=result)

    async def _aanswer(self, prompt: Prompt, options: dict[str, Any], reply: Callable[..., Reply]) -> Reply:
        with loud():
            guard = await self._aguard()
            result = await guard.agenerate(prompt, **options)
        return reply(result.content, result=result)

    def _stream(
        self, prompt: Prompt, options: dict[str, Any], reply: Callable[..., Reply]
    ) -> Generator[Reply, None, None]:
        text = ""
        with loud(), closing(self.guard.stream(prompt, **options)) as chunks:
            for chunk in chunks:
                text += chunk.text
                yield _item(reply, text, chunk)

    async def _astream(
        self, prompt: Prompt, options: dict[str, Any], reply: Callable[..., Reply]
    ) -> AsyncGenerator[Reply, None]:
        text = ""
        with loud():
            guard = await self._aguard()
            async with aclosing(guard.astream(prompt, **options)) as chunks:
                async for chunk in chunks:
                    text += chunk.text
                    yield _item(reply, text, chunk)

    def _once(
        self, prompt: Prompt, options: dict[str, Any], reply: Callable[..., ChatResponse]
    ) -> Generator[ChatResponse, None, None]:
        yield whole_object(self._answer(prompt, options, reply))

    async def _aonce(
        self, prompt: Prompt, options: dict[str, Any], reply: Callable[..., ChatResponse]
    ) -> AsyncGenerator[ChatResponse, None]:
        yield whole_object(await self._aanswer(prompt, options, reply))

    async def _aguard(self) -> InferenceGuard:
        """The guard; loading takes seconds to minutes, so it happens beside the event loop."""
        return self.guard if self.is_loaded else await asyncio.to_thread(lambda: self.guard)


def _for_object(schema: dict[str, Any] | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of a call that asks for an object in words: it is held to the schema, and a refusal is none."""
    return {} if schema is None else {"on_block": "raise", **held_to(schema, given=given)}


def _template_tokens(guard: InferenceGuard) -> int:
    """What the chat template writes around a system and a user message."""
    roles = ("system", "user")
    word = len(guard.tokenizer.encode("x", add_special_tokens=False))
    return guard.count_tokens([{"role": role, "content": "x"} for role in roles]) - len(roles) * word


def _item(reply: Callable[..., Reply], text: str, chunk: Any) -> Reply:
    """One item of a stream. The last one says what the guard's result says: on a block, the refusal alone."""
    if chunk.result is None:
        return reply(text, delta=chunk.text)
    result = chunk.result
    return reply(result.content, delta=chunk.text if result.text else chunk.text + result.content, result=result)
