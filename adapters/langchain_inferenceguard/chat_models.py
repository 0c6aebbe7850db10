"""`ChatInferenceGuard`: guarded chat as a LangChain `BaseChatModel`."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict
from typing_extensions import Self

from critic_models.identity import describe
from ig_plugins.chat.tools import choose
from ig_plugins.guard import GuardResult, InferenceGuard
from ig_plugins.guard.held import masks
from ig_plugins.guard.model_info import model_context, preset_max_tokens
from ig_plugins.remote.address import is_remote
from langchain_inferenceguard._base import GuardedModel
from langchain_inferenceguard._convert import to_chat_chunk, to_chat_generation, to_messages, token_usage
from langchain_inferenceguard._structured import (
    held_to,
    stands_for_object,
    structured,
    usable_answer,
    usable_call,
    with_instruction,
)

ToolLike = dict[str, Any] | type | Callable[..., Any] | BaseTool


class ChatInferenceGuard(GuardedModel, BaseChatModel):
    r"""A chat model of open weights whose every answer has passed a cost model.

    Messages are rendered by the model's chat format; answers are searched under a safety budget, verified, and streamed
    only as far as they are verified. What is printed below was printed by these lines, shortened at `...`.

    Setup:
        ```bash
        pip install "inferenceguard[langchain]"
        ```
        `tiny-beaver` comes with the package. A hub id or a local folder works as well, with a `cost_model` beside it.

    Key init args - completion params:
        model: A preset (`inferenceguard presets`), a hub id or a local folder.
        temperature, top_p, min_p, top_k, repetition_penalty, seed: How candidates are sampled.
        max_tokens: The longest answer.
        stop: Strings that end it.
        timeout: Seconds that an answer may take.

    Key init args - guard params:
        cost_model: What judges safety: a preset, a checkpoint, a judge, or `f(prompts, responses) -> list[float]`.
        reward_model: What ranks the safe answers.
        budget: How much cost an answer may spend.
        candidates, beams, block_tokens, tries: How hard to search.
        on_block: `"refuse"` (default), `"raise"` or `"empty"`.

    See the fields for all of them. Unknown ones are errors, here and in every call.

    Instantiate:
        ```python
        from langchain_inferenceguard import ChatInferenceGuard

        chat = ChatInferenceGuard(model="tiny-beaver", seed=1)
        ```

    Invoke:
        ```python
        question = "How do I go uphill with the scooter and two friends?"
        message = chat.invoke(question)
        message.content
        ```
        ```
        'The scooter is no big deal. First check the brakes, the lights and the tyres of the scooter. Then go slowly,
        keep to the right and stop at each corner. If it starts to rain, stop at once and wait under a roof. ...'
        ```

    Stream:
        ```python
        for chunk in chat.stream(question):
            print(chunk.text, end="|\n")
        ```
        ```
        The scooter is no big deal. First check ... Then go slowly, keep to the right and stop at|
         each corner. If it starts to rain, stop at once and wait under a roof. Look at the scooter once more ... saw.|
        ```
        Chunks add up to the message: `whole = chunk if whole is None else whole + chunk`.

    Async:
        ```python
        await chat.ainvoke(question)
        async for chunk in chat.astream(question): ...
        await chat.abatch([question, question])
        ```
        The event loop goes on meanwhile; cancelling the task frees the model.

    Tool calling:
        For models with the skill, which the bundled ones are not; printed by the tests' scripted model. Agents on small
        models force their first call: `ToolChoiceMiddleware`.
        ```python
        def weather(city: str) -> str:
            'The weather in a city.'

        chat.bind_tools([weather]).invoke("What is the weather in 'Oslo'?").tool_calls
        ```
        ```
        [{'name': 'weather', 'args': {'city': 'Oslo'}, 'id': 'call_...', 'type': 'tool_call'}]
        ```

    Structured output:
        ```python
        from pydantic import BaseModel


        class Joke(BaseModel):
            'A joke.'
            setup: str
            punchline: str

        chat.with_structured_output(Joke).invoke("A joke with 'Why?' and 'Because.'")
        ```
        ```
        Joke(setup='Why?', punchline='Because.')
        ```

    Token usage:
        ```python
        message.usage_metadata
        ```
        ```
        {'input_tokens': 21, 'output_tokens': 69, 'total_tokens': 90}
        ```

    Response metadata:
        ```python
        message.response_metadata
        ```
        ```
        {'token_usage': {'prompt_tokens': 21, 'completion_tokens': 69, 'total_tokens': 90}, 'model_name': 'tiny-beaver',
         'finish_reason': 'stop', 'model_provider': 'inferenceguard', 'inference_guard': {...}}
        ```

    Guard result:
        ```python
        message.response_metadata["inference_guard"]
        ```
        ```
        {'blocked': False, 'reason': None, 'finish_reason': 'stop', 'cost': -4.739..., 'reward': 3.381...,
         'safety_state': 15.574..., 'accounting': {'tiny-cost': 'cumulative'},
         'blocks': [{'index': 0, 'candidates': 16, 'safe': 15, 'tries': 1, 'cost': -0.355..., ...}, ...],
         'usage': {'completion_tokens': 69, 'candidate_tokens': 1001, 'judge_calls': 10, ...}, 'seed': 1, ...}
        ```

    Blocked requests:
        ```python
        strict = ChatInferenceGuard(model="tiny-beaver", cost_model=lambda prompts, responses: [1.0] * len(responses))
        message = strict.invoke(question)
        (message.content, message.response_metadata["finish_reason"], message.additional_kwargs)
        ```
        ```
        ("I'm sorry, but I can't answer that safely.", 'content_filter',
         {'refusal': "I'm sorry, but I can't answer that safely."})
        ```
        With `on_block="raise"` it is a `GuardBlockedError` instead, for `with_fallbacks` to catch.
    """

    # Pydantic lets the last base decide, and LangChain's bases ignore unknown fields. Spelt out in each class, since
    # pydantic's mypy plugin reads no variables.
    model_config = ConfigDict(
        extra="forbid", populate_by_name=True, protected_namespaces=(), arbitrary_types_allowed=True
    )

    streaming: bool = False
    """Let `invoke` stream inside, so that callbacks get the answer in pieces."""

    @property
    def _llm_type(self) -> str:
        return "inferenceguard-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """Everything that decides the answer; the call's own keywords join it in LangChain's cache key."""
        return self.guard.with_options(**self.call_options()).identity()

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The key of LangChain's cache: what the guard is under this call's settings.

        LangChain would write the call's keywords down as Python prints them, which says of two logits processors only
        where in memory they are.
        """
        settings = dict(kwargs)
        chat = self._named(settings.pop("model", None))
        wishes = {key: describe(settings.pop(key)) for key in ("stream", "response_format") if key in settings}
        if stop is not None:
            settings["stop"] = stop
        guard = chat.guard.with_options(**chat.call_options(**settings))
        return json.dumps({"guard": guard.identity(), "call": wishes, "_type": self._llm_type}, sort_keys=True)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._trace_params("chat", stop, kwargs)

    @classmethod
    def from_guard(cls, guard: InferenceGuard, **fields: Any) -> Self:
        """Wraps a guard that exists; its options are the defaults, and its weights are shared."""
        chat = super().from_guard(guard, **fields)
        if "profile" not in fields:
            chat.profile = chat._resolve_model_profile()
        return chat

    def _resolve_model_profile(self) -> ModelProfile | None:
        """What agents may rely on, without loading anything."""
        profile = ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            open_weights=True,
            tool_calling=True,
            tool_choice=True,
            structured_output=self._holds_to_schemas(),  # where not, agents force a tool call instead
        )
        context = self.guard.context if self.is_loaded else model_context(self.model, self.revision)
        longest = self.guard.search.max_new_tokens if self.is_loaded else preset_max_tokens(self.model)
        if context:
            profile["max_input_tokens"] = context
        if answer := self.max_tokens or longest:
            profile["max_output_tokens"] = answer
        return profile

    def _holds_to_schemas(self) -> bool:
        """Whether tokens that leave a schema are masked."""
        return masks(remote=self.guard.components.remote if self.is_loaded else is_remote(self.model))

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        outputs = [output for output in llm_outputs if output]
        usages = [output["token_usage"] for output in outputs]
        summed = {key: sum(usage[key] for usage in usages) for key in (usages[0] if usages else ())}
        return {"token_usage": summed, "model_name": self.model_name}

    # ---- generation ----

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What the guard is called with."""
        options = {key: value for key, value in kwargs.items() if key not in ("stream", "response_format")}
        if stop is not None:
            options["stop"] = stop
        conversation = to_messages(messages)
        if wish := kwargs.get("response_format"):
            conversation = with_instruction(conversation, wish)
            options = {**held_to(wish), **options}
        return conversation, self.call_options(**options)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        model: str | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat = self._named(model)
        conversation, options = chat._request(messages, stop, kwargs)
        return chat._chat_result(chat.guard.generate(conversation, **options))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        model: str | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat = self._named(model)
        await chat._loaded()
        conversation, options = chat._request(messages, stop, kwargs)
        return chat._chat_result(await chat.guard.agenerate(conversation, **options))

    def _chat_result(self, result: GuardResult) -> ChatResult:
        output = {"token_usage": token_usage([result.usage]), "model_name": self.model_name}
        return ChatResult(generations=[to_chat_generation(result, self.model_name)], llm_output=output)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        model: str | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chat = self._named(model)
        conversation, options = chat._request(messages, stop, kwargs)
        with closing(chat.guard.stream(conversation, **options)) as pieces:
            for piece in pieces:
                chunk = to_chat_chunk(piece.text, piece.result, chat.model_name)
                if run_manager:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        model: str | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chat = self._named(model)
        await chat._loaded()
        conversation, options = chat._request(messages, stop, kwargs)
        async with aclosing(chat.guard.astream(conversation, **options)) as pieces:
            async for piece in pieces:
                chunk = to_chat_chunk(piece.text, piece.result, chat.model_name)
                if run_manager:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in `BaseChatModel`; weights load without holding up the event loop."""
        await self._named(kwargs.get("model"))._loaded()
        return await super().agenerate(messages, stop, callbacks, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yields the message as far as it has been verified; leaving the loop frees the model."""
        await self._loaded()
        async with aclosing(super().astream(input, config, stop=stop, **kwargs)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    # ---- tools and structured output ----

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offers tools to the model.

        Args:
            tools: Functions, pydantic classes, LangChain tools or OpenAI-style dicts.
            tool_choice: ``"auto"`` or None; ``"none"`` or False; ``"any"``, ``"required"`` or True; a tool's name;
                OpenAI's ``{"type": "function", "function": {"name": ...}}``.
            strict: Passed into the tools' schemas.
            kwargs: Further settings of each call.

        Raises:
            PromptError: A choice that none of the tools can satisfy.
            GuardBlockedError: When called, if an object is wanted, as by an agent's `response_format`, and the guard
                blocked.
            OutputParserException: Likewise, if the forced call did not come about or the object was cut off: no agent
                ends without its object.
        """
        formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        choice = choose(tool_choice, formatted)
        bound = super().bind(tools=formatted, tool_choice=choice, **kwargs)
        if choice not in ("auto", "none") and any(map(stands_for_object, tools)):
            return bound | RunnableLambda(usable_call)
        if kwargs.get("response_format"):
            return bound | RunnableLambda(usable_answer)
        return bound

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["function_calling", "json_schema", "json_mode"] = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A model that answers with an object.

        Args:
            schema: A pydantic class, a TypedDict, a JSON schema or an OpenAI tool.
            method: ``function_calling`` forces a tool call; ``json_schema`` writes the schema into the system
                message and parses the text; ``json_mode`` parses the text and leaves the asking to the prompt. In all
                of them the answer is held to the schema while it is sampled.
            include_raw: Return ``{"raw", "parsed", "parsing_error"}`` instead of raising.
            strict: Check the object against the schema also where nothing else does (dict schemas).
            kwargs: Further settings of each call.

        Raises:
            GuardBlockedError: When called, if the guard blocked the answer.
            OutputParserException: When called, if the answer is cut off, makes no call or does not fit.
        """
        return structured(
            lambda tools, **bound: self.bind_tools(tools, **bound, **kwargs),
            lambda **bound: self.bind(**bound, **kwargs),
            schema,
            method=method,
            include_raw=include_raw,
            strict=strict,
        )
