"""`InferenceGuardLLM`: guarded text completion as a LangChain `BaseLLM`."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models import BaseLLM, LangSmithParams, LanguageModelInput
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.prompt_values import PromptValue, StringPromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import Self

from ig_plugins.guard.result import GuardResult
from ig_plugins.runtime.batch import MAX_ROWS
from langchain_inferenceguard._base import GuardedModel
from langchain_inferenceguard._convert import to_chunk, to_llm_result, to_messages

# Arguments of `generate` that say who watches a call; every other keyword changes its answer.
_WATCHERS = ("tags", "metadata", "run_name", "run_id")


class InferenceGuardLLM(GuardedModel, BaseLLM):
    """A text model of open weights whose every answer has passed a cost model.

    For plain chains; agents, tools and chat histories with metadata are the business of `ChatInferenceGuard`, which has
    the same fields. What is printed below was printed by these lines, shortened at `...`.

    Setup:
        ```bash
        pip install "inferenceguard[langchain]"
        ```

    Key init args - completion params:
        model, temperature, top_p, min_p, top_k, repetition_penalty, seed, max_tokens, stop, timeout: As in the chat
            class.
        raw_prompt: Send strings as they are, instead of as one user turn of the model's chat format.

    Key init args - guard params:
        cost_model, reward_model, budget, candidates, beams, block_tokens, tries, on_block: As in the chat class.

    Instantiate:
        ```python
        from langchain_inferenceguard import InferenceGuardLLM

        llm = InferenceGuardLLM(model="tiny-beaver", seed=1)
        ```

    Invoke:
        ```python
        llm.invoke("How do I go uphill with the scooter and two friends?")
        ```
        ```
        'The scooter is no big deal. First check the brakes, the lights and the tyres of the scooter. Then go slowly,
        keep to the right and stop at each corner. If it starts to rain, stop at once and wait under a roof. ...'
        ```
        A list of messages is rendered by the chat format, too: `ChatPromptTemplate | llm | StrOutputParser()`.

    Stream:
        `llm.stream(...)` yields verified text; `astream_events` and `on_llm_new_token` get the same pieces.

    Async:
        `ainvoke`, `astream`, `abatch`. The event loop goes on meanwhile; cancelling the task frees the model.

    Batch:
        `llm.batch(questions)` is one search over all of them; `max_concurrency` in the config slices it.

    Token usage, guard result:
        ```python
        result = llm.generate(["How do I go uphill with the scooter and two friends?"])
        result.llm_output
        ```
        ```
        {'token_usage': {'prompt_tokens': 21, 'completion_tokens': 69, 'total_tokens': 90}, 'model_name': 'tiny-beaver'}
        ```
        `result.generations[0][0].generation_info` has `finish_reason`, `usage` and the report, `inference_guard`.

    Blocked requests:
        By default the answer is the refusal and `finish_reason` is `content_filter`; `on_block="raise"` raises
        `GuardBlockedError`, `on_block="empty"` gives an empty text.
    """

    # Pydantic lets the last base decide, and LangChain's bases ignore unknown fields. Spelt out in each class, since
    # pydantic's mypy plugin reads no variables.
    model_config = ConfigDict(
        extra="forbid", populate_by_name=True, protected_namespaces=(), arbitrary_types_allowed=True
    )

    raw_prompt: bool = False
    """Send plain strings to the model as they are, instead of as one user turn of its chat format."""

    _call: dict[str, Any] = PrivateAttr(default_factory=dict)
    """Settings of one call; only copies made for that call have any."""

    _speaks: bool = PrivateAttr(default=False)
    """The prompts of this call are message lists, written as JSON."""

    @property
    def _llm_type(self) -> str:
        return "inferenceguard"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """Everything that decides the answer. LangChain's cache key is this and `stop`, nothing else."""
        told = "messages" if self._speaks else "text"
        return {**self.guard.with_options(**self._options(None, {})).identity(), "input": told}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._trace_params("llm", stop, {**self._call, **kwargs})

    # ---- what changes the answer belongs to the model, not to the call: see `_for_call` ----

    def _for_call(self, settings: Mapping[str, Any]) -> Self:
        """A copy (sharing all weights) whose identity holds this call's settings.

        `BaseLLM` looks up its cache without the call's keyword arguments, so that a call with a wide budget would
        answer for one with a narrow budget. On a copy they are part of the key, of traces and of LangSmith's params.
        """
        if not settings:
            return self
        changed = {key: value for key, value in settings.items() if key != "model"}
        self.call_options(**changed)  # unknown names raise here, before anybody is told that a run started
        copy = self._named(settings.get("model")).model_copy()
        copy._call = {**self._call, **changed}
        return copy

    def _render(self, prompts: Sequence[PromptValue]) -> tuple[Self, list[str]]:
        """Prompts as strings: texts as they are, or, as soon as one holds messages, all of them as message lists.

        JSON keeps turns apart that a transcript ("Human: ...") would let a user's text forge, in the model's input
        and in the cache's keys.
        """
        if all(isinstance(prompt, StringPromptValue) for prompt in prompts):
            return self, [prompt.to_string() for prompt in prompts]
        copy = self.model_copy()
        copy._speaks = True
        return copy, [json.dumps(to_messages(p.to_messages()), ensure_ascii=False) for p in prompts]

    def _input(self, prompt: str) -> Any:
        return json.loads(prompt) if self._speaks else prompt

    def _options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        options = {**self._call, **kwargs}
        if stop is not None:
            options["stop"] = stop
        options.setdefault("raw_prompt", self.raw_prompt)
        if self._speaks:
            options["raw_prompt"] = False
        return self.call_options(**options)

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in `BaseLLM`; settings of this call become part of the cache's key."""
        watchers = {key: kwargs.pop(key) for key in _WATCHERS if key in kwargs}
        return super(InferenceGuardLLM, self._for_call(kwargs)).generate(prompts, stop, callbacks, **watchers)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in `BaseLLM`; settings of this call become part of the cache's key."""
        watchers = {key: kwargs.pop(key) for key in _WATCHERS if key in kwargs}
        llm = self._for_call(kwargs)
        await llm._loaded()
        return await super(InferenceGuardLLM, llm).agenerate(prompts, stop, callbacks, **watchers)

    def generate_prompt(
        self,
        prompts: list[PromptValue],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in `BaseLLM`, with messages rendered by the model's chat format."""
        llm, texts = self._render(prompts)
        return llm.generate(texts, stop, callbacks, **kwargs)

    async def agenerate_prompt(
        self,
        prompts: list[PromptValue],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in `BaseLLM`, with messages rendered by the model's chat format."""
        llm, texts = self._render(prompts)
        return await llm.agenerate(texts, stop, callbacks, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """Yields text as far as it has been verified."""
        llm, (text,) = self._render([self._convert_input(input)])
        llm = llm._for_call(kwargs)
        with closing(super(InferenceGuardLLM, llm).stream(text, config, stop=stop)) as pieces:  # type: ignore[type-var]
            yield from pieces

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Yields text as far as it has been verified; leaving the loop frees the model."""
        llm, (text,) = self._render([self._convert_input(input)])
        llm = llm._for_call(kwargs)
        await llm._loaded()
        async with aclosing(super(InferenceGuardLLM, llm).astream(text, config, stop=stop)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    # ---- the guard does the rest ----

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        results: list[GuardResult] = self.guard.generate(
            [self._input(prompt) for prompt in prompts], **self._options(stop, kwargs)
        )
        return to_llm_result(results, self.model_name)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        results: list[GuardResult] = await self.guard.agenerate(
            [self._input(prompt) for prompt in prompts], **self._options(stop, kwargs)
        )
        return to_llm_result(results, self.model_name)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with closing(self.guard.stream(self._input(prompt), **self._options(stop, kwargs))) as pieces:
            for piece in pieces:
                chunk = to_chunk(piece.text, piece.result, self.model_name)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async with aclosing(self.guard.astream(self._input(prompt), **self._options(stop, kwargs))) as pieces:
            async for piece in pieces:
                chunk = to_chunk(piece.text, piece.result, self.model_name)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    # ---- batches: one prompt's error is not everybody's ----

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """One search over all prompts (slices of `max_concurrency`, if set).

        With ``return_exceptions`` every prompt is a call of its own, which the engine takes together all the same:
        `BaseLLM` would hand one prompt's exception to the whole batch.
        """
        if not return_exceptions:
            return BaseLLM.batch(self, inputs, config, **kwargs)
        return Runnable.batch(self, inputs, _all_at_once(inputs, config), return_exceptions=True, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """See `batch`."""
        if not return_exceptions:
            return await BaseLLM.abatch(self, inputs, config, **kwargs)
        return await Runnable.abatch(self, inputs, config, return_exceptions=True, **kwargs)

    def __str__(self) -> str:
        """The fields; `BaseLLM` would load the weights to print its identity."""
        return repr(self)


def _all_at_once(
    inputs: Sequence[LanguageModelInput], config: RunnableConfig | list[RunnableConfig] | None
) -> list[RunnableConfig]:
    """A configuration for each input, with threads enough for a whole batch of the engine's."""
    return [
        {**each, "max_concurrency": each.get("max_concurrency") or min(len(inputs), MAX_ROWS)}
        for each in get_config_list(config, len(inputs))
    ]
