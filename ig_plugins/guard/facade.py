"""`InferenceGuard`: text in, verified result out; one, many, streamed, and all of it without blocking an event loop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, overload

from ig_plugins.chat import EncodedPrompt, Message
from ig_plugins.chat.messages import check_unicode
from ig_plugins.errors import GuardBlockedError, PromptError
from ig_plugins.guard.options import Options
from ig_plugins.guard.parts import Parts
from ig_plugins.guard.result import GuardResult
from ig_plugins.guard.ticket import GuardChunk, Ticket
from ig_plugins.runtime import worker
from ig_plugins.safety import SafetyBudget
from ig_plugins.search import Request, SearchConfig

Prompt = str | Sequence[Message]


class InferenceGuard:
    """A language model whose every answer has passed a cost model.

    Made by `from_pretrained`, or from loaded parts. Instances are light: they share weights, and any number of
    threads and event loops may use one.

    Example:
        >>> guard = InferenceGuard.from_pretrained("tiny-beaver")
        >>> result = guard.generate("How do I clean a window?")
        >>> result.blocked
        False
    """

    def __init__(self, parts: Parts, options: Options | None = None) -> None:
        self.parts = parts
        options = options or Options()
        self.options = options if options.budgets else options.model_copy(update={"budgets": parts.budgets})

    @classmethod
    def from_pretrained(
        cls,
        model: str | tuple[Any, Any],
        *,
        cost_model: Any = None,
        reward_model: Any = None,
        critic: Any = None,
        budget: Any = None,
        search: SearchConfig | None = None,
        prompt_format: str | None = None,
        revision: str | None = None,
        device: Any = None,
        dtype: Any = None,
        load_options: Mapping[str, Any] | None = None,
        certificate: str | None = None,
        **options: Any,
    ) -> InferenceGuard:
        """Loads a guard.

        Args:
            model: A preset (``inferenceguard presets`` lists them), a hub id, a local folder, or a loaded pair of
                transformers model and tokenizer.
            cost_model: A preset's name, a checkpoint, a judge, a plain callable
                ``f(prompts, responses) -> scores``, or a list of these; by default the preset's.
            reward_model: Likewise, one of them.
            critic: A folder or hub id of a `LatentCritic`, or one that is loaded; by default the preset's;
                ``False`` for none.
            budget: A `SafetyBudget` or a bare limit, or a list with one for each cost model.
            search: The search's settings; by default the preset's.
            prompt_format: ``beaver``, ``chat_template``, ``plain`` or ``auto``.
            revision: Of the policy, on the hub.
            device: Where to run; by default CUDA, then MPS, then the CPU.
            dtype: Of the policy's weights.
            load_options: Passed on to transformers, such as ``device_map`` and ``quantization_config``.
            certificate: A ``certificate.json``; a guard that it was not made for is refused.
            **options: Any option of a call, as this guard's default.

        Raises:
            ModelLoadError: Something cannot be loaded; the message says what and what next.
            MismatchError: Parts do not belong together.
            ConfigurationError: A setting is not allowed.
        """
        from ig_plugins.guard.load import load_parts

        parts, preset_search = load_parts(
            model,
            cost_model=cost_model,
            reward_model=reward_model,
            critic=critic,
            budget=budget,
            prompt_format=prompt_format,
            revision=revision,
            device=device,
            dtype=dtype,
            load_options=dict(load_options or {}),
        )
        guard = cls(parts, Options(search=search or preset_search).updated(**options))
        if certificate is not None:
            guard.check_certificate(certificate)
        return guard

    @overload
    def generate(self, prompt: Prompt, **overrides: Any) -> GuardResult: ...

    @overload
    def generate(self, prompt: Sequence[Prompt], **overrides: Any) -> list[GuardResult]: ...

    def generate(self, prompt: Any, **overrides: Any) -> GuardResult | list[GuardResult]:
        """Answers one prompt, or several in one batch.

        Args:
            prompt: A text (one user turn), a conversation (a list of message dicts), or a list of either.
            **overrides: Any option, for this call; see `Options` and `SearchConfig`.

        Raises:
            PromptError: A prompt that cannot be answered.
            GuardBlockedError: Blocked, with ``on_block="raise"``.
            JudgeError, DeadlineExceededError, RequestCancelledError: No verified answer; no text leaves.
        """
        many = is_batch(prompt)
        tickets = self._tickets(list(prompt) if many else [prompt], self.options.updated(**overrides))
        worker().submit(tickets)
        try:
            results = [self._checked(ticket.result(), overrides) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.cancel()
        return results if many else results[0]

    def stream(self, prompt: Prompt, **overrides: Any) -> Generator[GuardChunk, None, None]:
        """Answers one prompt in chunks of verified text; the last one carries the result.

        The joined texts are the text of `generate` with the same seed. A chunk leaves when no later block can change
        it: when all beams share it. Decoding starts with the first `next`; closing the iterator stops it.

        Where every beam runs into a dead end, `generate` begins anew. A stream of which text has left cannot: it ends
        with the refusal.
        """
        (ticket,) = self._tickets([prompt], self.options.updated(**overrides), stream=True)
        return self._relay(ticket, overrides)

    async def agenerate(self, prompt: Any, **overrides: Any) -> Any:
        """As `generate`; the event loop goes on, and cancelling the task stops decoding."""
        many = is_batch(prompt)
        tickets = await self._listening(list(prompt) if many else [prompt], overrides)
        try:
            results = [self._checked(await ticket.aresult(), overrides) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.cancel()
        return results if many else results[0]

    async def astream(self, prompt: Prompt, **overrides: Any) -> AsyncGenerator[GuardChunk, None]:
        """As `stream`; the event loop goes on, and cancelling the task stops decoding."""
        (ticket,) = await self._listening([prompt], overrides, stream=True)
        try:
            while True:
                chunk = await ticket.anext()
                if chunk.result is not None:
                    self._checked(chunk.result, overrides)
                yield chunk
                if chunk.result is not None:
                    return
        finally:
            ticket.cancel()

    def prepare(self, prompt: Prompt, *, stream: bool = False, **overrides: Any) -> Ticket:
        """A request that is encoded and checked and not under way yet; `follow` answers it.

        For services, which look at what a request may take before they let it in. Its time runs from now on.
        """
        (ticket,) = self._tickets([prompt], self.options.updated(**overrides), stream=stream)
        return ticket

    async def follow(self, ticket: Ticket) -> AsyncGenerator[GuardChunk, None]:
        """Answers a prepared request, as `astream`; the last chunk alone counts where it does not stream."""
        ticket.listen(asyncio.get_running_loop())
        worker().submit([ticket])
        try:
            while True:
                chunk = await ticket.anext()
                if chunk.result is not None:
                    self._checked(chunk.result, {})
                yield chunk
                if chunk.result is not None:
                    return
        finally:
            ticket.cancel()

    def with_options(self, **overrides: Any) -> InferenceGuard:
        """A guard with other defaults and the same weights."""
        return InferenceGuard(self.parts, self.options.updated(**overrides))

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return self.parts.policy.tokenizer

    @property
    def search(self) -> SearchConfig:
        """The search's settings."""
        return self.options.search

    @property
    def budget(self) -> SafetyBudget:
        """The first cost model's budget; `options.budgets` has all."""
        return self.options.budgets[0]

    @property
    def policy_id(self) -> str:
        """What the policy was loaded from."""
        return str(self.parts.names.get("model") or "policy")

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and answer together, in tokens; None where there is no limit."""
        return self.parts.context

    def count_tokens(self, prompt: Prompt, *, tools: Sequence[Any] | None = None) -> int:
        """Tokens of a prompt as the policy would read it, tools included."""
        encoded = self._encode(prompt, self.options.updated(tools=tools))
        return len(encoded.prompt_ids) + len(encoded.prefill_ids)

    def request(self, prompt: Prompt, *, stream: bool = False, **overrides: Any) -> Request:
        """The search's view of one prompt; for code that drives the search itself, and to check a call beforehand.

        Raises:
            PromptError: The prompt cannot be answered.
        """
        options = self.options.updated(**overrides)
        return self._request(self._encode(prompt, options), options, stream=stream)

    def identity(self) -> dict[str, Any]:
        """Everything that decides an answer, as plain JSON: the models and the settings."""
        options = self.options
        return {
            "models": dict(self.parts.names),
            "prompt_format": self.parts.prompt_format.name,
            "budgets": {
                name: budget.model_dump(mode="json")
                for name, budget in zip(self.parts.costs, options.budgets, strict=True)
            },
            "search": options.search.model_dump(mode="json"),
            "stop": list(options.stop),
            "on_block": options.on_block,
            "refusal": options.refusal,
            "raw_prompt": options.raw_prompt,
            "tools": [tool if isinstance(tool, dict) else repr(tool) for tool in options.tools],
            "tool_choice": options.tool_choice,
            "logits_processors": [type(each).__name__ for each in options.logits_processors],
        }

    def check_certificate(self, path: str) -> None:
        """Refuses a certificate that was made for other models or settings.

        Raises:
            MismatchError: It was; the message names both sides.
        """
        from ig_plugins.certificate import Certificate

        Certificate.load(path).check(self.identity())

    def _relay(self, ticket: Ticket, overrides: Mapping[str, Any]) -> Generator[GuardChunk, None, None]:
        worker().submit([ticket])
        for chunk in ticket.chunks():
            if chunk.result is not None:
                self._checked(chunk.result, overrides)
            yield chunk

    async def _listening(
        self, prompts: Sequence[Prompt], overrides: Mapping[str, Any], *, stream: bool = False
    ) -> list[Ticket]:
        """Tickets on their way, whose events come to the running loop."""
        options = self.options.updated(**overrides)
        tickets = await asyncio.to_thread(self._tickets, prompts, options, stream=stream)
        for ticket in tickets:
            ticket.listen(asyncio.get_running_loop())
        worker().submit(tickets)
        return tickets

    def _tickets(self, prompts: Sequence[Prompt], options: Options, *, stream: bool = False) -> list[Ticket]:
        tickets = []
        for prompt in prompts:
            encoded = self._encode(prompt, options)
            request = self._request(encoded, options, stream=stream)
            tickets.append(Ticket(self.parts.serving(request.budgets), encoded, request, options))
        return tickets

    def _encode(self, prompt: Prompt, options: Options) -> EncodedPrompt:
        if options.raw_prompt:
            if not isinstance(prompt, str) or not prompt:
                raise PromptError("raw_prompt=True needs a non-empty text; leave it out for a list of messages")
            check_unicode(prompt, "the prompt")
            begun = bool(self.tokenizer.bos_token) and prompt.startswith(self.tokenizer.bos_token)
            ids = self.tokenizer.encode(prompt, add_special_tokens=not begun)
            return EncodedPrompt(prompt_ids=list(ids), prefill_ids=[], judge_prompt=prompt)
        return self.parts.prompt_format.encode(
            prompt, tools=list(options.tools) or None, tool_choice=options.tool_choice
        )

    def _request(self, encoded: EncodedPrompt, options: Options, *, stream: bool) -> Request:
        prompt_ids = [*encoded.prompt_ids, *encoded.prefill_ids]
        self._check_fits(len(prompt_ids), options.search)
        seed = options.search.seed
        return Request(
            prompt_ids=prompt_ids,
            judge_ids=encoded.prompt_ids,
            judge_prompt=encoded.judge_prompt,
            search=options.search,
            budgets=options.budgets,
            seed=secrets.randbelow(2**63) if seed is None else seed,
            prefill_ids=encoded.prefill_ids,
            prefill_text=self.parts.policy.detokenizer.text(encoded.prefill_ids) if encoded.prefill_ids else "",
            stop=options.stop,
            stream=stream,
            deadline=None if options.timeout is None else time.monotonic() + options.timeout,
            processors=options.logits_processors,
        )

    def _check_fits(self, prompt_tokens: int, search: SearchConfig) -> None:
        context = self.context
        if context is not None and prompt_tokens + search.max_new_tokens > context:
            raise PromptError(
                f"the prompt has {prompt_tokens} tokens and the answer may have {search.max_new_tokens}, but the "
                f"context holds {context}; shorten the prompt, or lower max_tokens"
            )

    def _checked(self, result: GuardResult, overrides: Mapping[str, Any]) -> GuardResult:
        on_block = overrides.get("on_block") or self.options.on_block
        if result.blocked and on_block == "raise":
            raise GuardBlockedError(f"the answer was blocked: {result.reason}", report=result.report())
        return result


def is_batch(prompt: Any) -> bool:
    """Whether this is a list of prompts rather than one: a list of texts or of conversations."""
    if isinstance(prompt, str):
        return False
    if not isinstance(prompt, Sequence):
        raise PromptError(f"the prompt is of type {type(prompt).__name__}; give a text, messages, or a list of these")
    if not prompt:
        raise PromptError("the list of prompts is empty; give at least one")
    return not isinstance(prompt[0], Mapping)
