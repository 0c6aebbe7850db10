"""`InferenceGuard`: text in, verified result out; one, many, streamed, and all of it without blocking an event loop."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from typing_extensions import Unpack

from critic_models.safety import SafetyBudget
from ig_plugins.call_options import CallOptions
from ig_plugins.errors import ConfigurationError, PromptError
from ig_plugins.guard.asking import (
    Asked,
    achunks_of,
    ask,
    ask_each,
    await_all,
    chunks_of,
    encode_call,
    wait_for,
)
from ig_plugins.guard.components import Components
from ig_plugins.guard.identity import PARTS, identity
from ig_plugins.guard.options import Options, configuration_errors, one_of
from ig_plugins.guard.promise import Outside, Promise
from ig_plugins.guard.prompt_request import Prompt, build_request, encode, weighed
from ig_plugins.guard.recipe import check_codes, codes_of, recipe_of
from ig_plugins.guard.request_handle import GuardChunk, RequestHandle
from ig_plugins.guard.result import GuardResult
from ig_plugins.guard.tool_gains import can_weigh
from ig_plugins.search import Request, SearchConfig

if TYPE_CHECKING:
    from ig_plugins.guard.certificate import Certificate


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

    def __init__(
        self, components: Components, options: Options | None = None, *, promise: Promise | None = None
    ) -> None:
        self.components, self.promise = components, promise
        options = options or Options(search=components.policy.standard(SearchConfig()))
        self.options = options if options.budgets else options.model_copy(update={"budgets": components.budgets})
        components.policy.check(self.options.search, self.options.logits_processors)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | tuple[Any, Any],
        *,
        cost_model: Any = None,
        reward_model: Any = None,
        critic: Any = None,
        search: SearchConfig | None = None,
        prompt_format: str | None = None,
        revision: str | None = None,
        device: Any = None,
        dtype: Any = None,
        load_options: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        certificate: str | None = None,
        outside_certificate: Outside = "refuse",
        **options: Unpack[CallOptions],
    ) -> InferenceGuard:
        """Loads a guard.

        Args:
            model: A preset (``inferenceguard presets`` lists them), a hub id, a local folder, a GGUF file (its path, a
                folder with one, ``org/name:file.gguf``), a server's address (``vllm+http://host:8000/name``, see
                docs/remote.md), or a loaded pair of transformers model and tokenizer.
            cost_model: A preset's name, a checkpoint, a judge, a plain callable
                ``f(prompts, responses) -> scores``, or a list of these; by default the preset's.
            reward_model: Likewise, one of them.
            critic: A folder or hub id of a `LatentCritic`, or one that is loaded; by default the preset's;
                ``False`` for none.
            search: The search's settings; by default the preset's, or without one what the checkpoint's
                ``generation_config.json`` says about temperature, top-k, top-p, min-p and repetition penalty.
            prompt_format: ``beaver``, ``chat_template``, ``plain`` or ``auto``.
            revision: Of the policy, on the hub.
            device: Where to run; by default CUDA, then MPS, then the CPU.
            dtype: Of the policy's weights.
            load_options: Passed on to transformers, such as ``device_map`` and ``quantization_config``; of a PEFT
                adapter also ``merge_adapter``, by default True unless its base is quantised. For a server's address
                how it is asked, see docs/remote.md.
            tokenizer: Of the model behind a server's address: its hub id or folder, or one that is loaded; by default
                of what the server says that its model came from.
            certificate: A ``certificate.json``; a guard that it was not made for is refused.
            outside_certificate: What becomes of a call with other settings than the certified ones: ``refuse`` raises,
                ``mark`` answers with ``certified=False`` in the result.
            **options: Any option of a call, as this guard's default; see `CallOptions`.

        Raises:
            ModelLoadError: Something cannot be loaded; the message says what and what next.
            MismatchError: Components do not belong together, or the certificate is another guard's.
            ConfigurationError: A setting is not allowed.
        """
        one_of("outside_certificate", outside_certificate, Outside)
        from ig_plugins.guard.checks import check_options
        from ig_plugins.guard.loading import load_components

        budget = options.pop("budget", None)
        check_options(
            model,
            options,
            search=search,
            cost_model=cost_model,
            budget=budget,
            prompt_format=prompt_format,
            dtype=dtype,
        )
        components, defaults = load_components(
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
            tokenizer=tokenizer,
        )
        if search is not None:
            with configuration_errors():
                defaults = Options.model_validate(
                    {**dict(defaults), "search": components.policy.standard(search, asked=search.model_fields_set)}
                )
        guard = cls(components, defaults.updated(**options))
        return guard if certificate is None else guard.with_certificate(certificate, outside=outside_certificate)

    @overload  # a text is a sequence of texts, too: the first that fits counts
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, return_exceptions: bool = False, **overrides: Unpack[CallOptions]
    ) -> GuardResult: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        *,
        return_exceptions: Literal[False] = False,
        **overrides: Unpack[CallOptions],
    ) -> list[GuardResult]: ...

    @overload
    def generate(
        self, prompt: Sequence[Prompt], *, return_exceptions: bool, **overrides: Unpack[CallOptions]
    ) -> list[GuardResult | Exception]: ...

    def generate(self, prompt: Any, *, return_exceptions: bool = False, **overrides: Unpack[CallOptions]) -> Any:
        """Answers one prompt, or several in one batch.

        Args:
            prompt: A text (one user turn), a conversation (a list of message dicts), or a list of either.
            return_exceptions: Of a list, a prompt without an answer costs the others nothing: its exception stands in
                its place. Without it the first prompt's that fails is raised, and the others are given up, as nobody
                would see their answers. Faults of the call itself, such as an unknown option, are raised in any case.
            **overrides: Any option, for this call; see `CallOptions`.

        Raises:
            PromptError: A prompt that cannot be answered. Nothing was decoded then.
            GuardBlockedError: Blocked, with ``on_block="raise"``.
            JudgeError, DecodingError, DeadlineExceededError, RequestCancelledError: No verified answer; no text leaves.
            OutsideCertificateError: The guard's certificate does not speak of such a call; see `from_pretrained`.
        """
        many = is_batch(prompt)
        keep = return_exceptions and many
        asked = self._ask_each(list(prompt) if many else [prompt], self.options.updated(**overrides), keep=keep)
        results = wait_for(asked, keep=keep)
        return results if many else results[0]

    def stream(self, prompt: Prompt, **overrides: Unpack[CallOptions]) -> Generator[GuardChunk, None, None]:
        """Answers one prompt in chunks of verified text; the last one carries the result.

        The joined texts are the text of `generate` with the same seed. A chunk leaves when no later block can change
        it: when all beams share it. Decoding starts with the first `next`, and so does the time of ``timeout``; closing
        the iterator stops it.

        Where every beam runs into a dead end, `generate` begins anew. A stream of which text has left cannot: it ends
        with the refusal.
        """
        return chunks_of(self._ask(prompt, self.options.updated(**overrides), stream=True))

    @overload  # a text is a sequence of texts, too: the first that fits counts
    async def agenerate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, return_exceptions: bool = False, **overrides: Unpack[CallOptions]
    ) -> GuardResult: ...

    @overload
    async def agenerate(
        self,
        prompt: Sequence[Prompt],
        *,
        return_exceptions: Literal[False] = False,
        **overrides: Unpack[CallOptions],
    ) -> list[GuardResult]: ...

    @overload
    async def agenerate(
        self, prompt: Sequence[Prompt], *, return_exceptions: bool, **overrides: Unpack[CallOptions]
    ) -> list[GuardResult | Exception]: ...

    async def agenerate(self, prompt: Any, *, return_exceptions: bool = False, **overrides: Unpack[CallOptions]) -> Any:
        """As `generate`; the event loop goes on, and cancelling the task stops decoding."""
        many = is_batch(prompt)
        keep = return_exceptions and many
        prompts, options = list(prompt) if many else [prompt], self.options.updated(**overrides)
        results = await await_all(await asyncio.to_thread(self._ask_each, prompts, options, keep=keep), keep=keep)
        return results if many else results[0]

    async def astream(self, prompt: Prompt, **overrides: Unpack[CallOptions]) -> AsyncGenerator[GuardChunk, None]:
        """As `stream`; the event loop goes on, and cancelling the task stops decoding."""
        options = self.options.updated(**overrides)
        handle = await asyncio.to_thread(self._ask, prompt, options, stream=True)
        async with aclosing(achunks_of(handle)) as chunks:
            async for chunk in chunks:
                yield chunk

    def prepare(self, prompt: Prompt, *, stream: bool = False, **overrides: Unpack[CallOptions]) -> RequestHandle:
        """A request that is encoded and checked and not under way yet; `follow` answers it.

        For services, which look at what a request may take before they let it in. Its time runs from now on.

        Raises:
            PromptError: The prompt cannot be answered.
            OutsideCertificateError: The guard's certificate does not speak of such a call; see `from_pretrained`.
        """
        handle = self._ask(prompt, self.options.updated(**overrides), stream=stream)
        handle.begin()
        return handle

    async def follow(self, handle: RequestHandle) -> AsyncGenerator[GuardChunk, None]:
        """Answers a prepared request, as `astream`; the last chunk alone counts where it does not stream."""
        async with aclosing(achunks_of(handle, begun=True)) as chunks:
            async for chunk in chunks:
                yield chunk

    def with_options(self, **overrides: Unpack[CallOptions]) -> InferenceGuard:
        """A guard with other defaults, the same weights, and the same certificate.

        Raises:
            OutsideCertificateError: The certificate does not speak of such a guard; see `from_pretrained`.
        """
        options = self.options.updated(**overrides)
        self._certified(options)
        return InferenceGuard(self.components, options, promise=self.promise)

    def with_certificate(self, path: str, *, outside: Outside = "refuse", settings: bool = True) -> InferenceGuard:
        """This guard under a certificate, to which every call is held.

        Args:
            path: A ``certificate.json``.
            outside: What becomes of calls with other settings; see `from_pretrained`.
            settings: Whether this guard's own settings must be the certified ones; they need not with ``mark``, or
                where every call brings its own. Its parts must be.

        Raises:
            MismatchError: It was made for another guard; the message names both sides.
        """
        one_of("outside", outside, Outside)
        certificate = self.check_certificate(path, settings=settings and outside == "refuse")
        return InferenceGuard(self.components, self.options, promise=Promise(certificate, outside))

    def __reduce__(self) -> tuple[Any, ...]:
        """See pickle: names and options travel, weights are loaded again; `recipe` says why.

        Raises:
            TypeError: It was made of loaded parts, or with a judge that has no name.
        """
        recipe = recipe_of(self.components)
        return InferenceGuard._loaded_again, (recipe, self.options, self.promise, codes_of(recipe))

    @classmethod
    def _loaded_again(
        cls,
        recipe: Mapping[str, Any],
        options: Options,
        promise: Promise | None,
        codes: Sequence[str | None] | None = None,
    ) -> InferenceGuard:
        """The guard that a pickle names, whose models are loaded once a process.

        Raises:
            MismatchError: A judge's function is another here; or it was certified, and the models here are others.
        """
        components = cls.from_pretrained(**recipe).components
        if codes is not None:  # pickles of older releases have none
            check_codes(recipe, codes)
        if promise is not None:
            mine, certificate = identity(components, options, fresh=True), promise.certificate
            certificate.check({**certificate.identity, **{part: mine[part] for part in PARTS}})
        return cls(components, options, promise=promise)

    @property
    def parts(self) -> Components:
        """The old name of ``components``; it goes with 0.3."""
        warnings.warn(
            "guard.parts is now guard.components; the old name goes with 0.3", DeprecationWarning, stacklevel=2
        )
        return self.components

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return self.components.policy.tokenizer

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
        return str(self.components.names.get("model") or "policy")

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and answer together, in tokens; None where there is no limit."""
        return self.components.context

    @property
    def calls_tools(self) -> bool:
        """Whether the model's chat template knows tools; others are told about them in words, and follow less well."""
        return getattr(self.components.prompt_format, "native", None) is not None

    def count_tokens(self, prompt: Prompt, *, tools: Sequence[Any] | None = None) -> int:
        """Tokens of a prompt as the policy would read it, tools included; of any piece of a conversation as well."""
        if not isinstance(prompt, str):
            return self.components.prompt_format.count(prompt, tools=tools)
        encoded = encode(self.components, prompt, self.options.updated(tools=tools))
        return len(encoded.prompt_ids) + len(encoded.prefill_ids)

    def tool_gains(self, prompt: Prompt, *, tools: Sequence[Any] | None = None) -> dict[str, float]:
        """What `tool_threshold` is compared with: how much likelier the prompt makes a call of each tool, in nats.

        Args:
            prompt: It ends with the user's question.
            tools: As in a call; the guard's own by default.

        Raises:
            ConfigurationError: There are no tools, calls do not begin with a tool's name, or a server samples.
        """
        offered = self.options.tools if tools is None else tools
        options = self.options.updated(tools=offered, tool_choice="auto")
        encoded = encode(self.components, prompt, options)
        if not can_weigh(encoded):
            raise ConfigurationError(
                f"{len(offered)} tools are offered, and no call of theirs can be weighed; give tools, to a model whose "
                "calls begin with a tool's name"
            )
        return dict(weighed(self.components, prompt, encoded, options))

    def request(self, prompt: Prompt, *, stream: bool = False, **overrides: Unpack[CallOptions]) -> Request:
        """The search's view of one prompt; for code that drives the search itself, and to check a call beforehand.

        Raises:
            PromptError: The prompt cannot be answered.
        """
        options = self.options.updated(**overrides)
        self._certified(options)
        return build_request(self.components, encode_call(self.components, prompt, options), options, stream=stream)

    def numbered(self, seed: int) -> int | None:
        """The seed of one of several answers to a prompt; None where a server draws, which no seed can repeat."""
        return None if self.components.remote else seed

    def identity(self) -> dict[str, Any]:
        """Everything that decides an answer, as plain JSON: what the models are, and the settings."""
        certificate = self.promise.certificate.identity_hash if self.promise else None
        return identity(self.components, self.options, certificate=certificate)

    def check_certificate(self, path: str, *, settings: bool = True) -> Certificate:
        """Refuses a certificate that was made for other models or (unless told otherwise) settings.

        All weights are read again.

        Raises:
            MismatchError: It was; the message names both sides.
        """
        from ig_plugins.guard.certificate import Certificate

        certificate = Certificate.load(path)
        mine = identity(self.components, self.options, fresh=True)
        certificate.check(mine if settings else {**certificate.identity, **{part: mine[part] for part in PARTS}})
        return certificate

    def _certified(self, options: Options) -> bool | None:
        """Whether the certificate speaks of such a call; None without one. It may refuse."""
        return None if self.promise is None else self.promise.covers(self.components, options)

    def _ask(self, prompt: Prompt, options: Options, *, stream: bool) -> RequestHandle:
        return ask(self.components, prompt, options, certified=self._certified(options), stream=stream)

    def _ask_each(self, prompts: Sequence[Prompt], options: Options, *, keep: bool) -> list[Asked]:
        return ask_each(self.components, prompts, options, certified=self._certified(options), keep=keep)


def is_batch(prompt: Any) -> bool:
    """Whether this is a list of prompts rather than one: a list of texts or of conversations."""
    if isinstance(prompt, str):
        return False
    if not isinstance(prompt, Sequence):
        raise PromptError(f"the prompt is of type {type(prompt).__name__}; give a text, messages, or a list of these")
    if not prompt:
        raise PromptError("the list of prompts is empty; give at least one")
    return not isinstance(prompt[0], Mapping)
