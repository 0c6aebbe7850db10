"""From a prompt and a call's options to what the search works on: encoded once, checked against the context."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ig_plugins.chat import EncodedPrompt, Message, parse_reply, special_in, tool_region
from ig_plugins.chat.messages import check_unicode
from ig_plugins.errors import ContextLengthError, PromptError
from ig_plugins.guard.components import Components
from ig_plugins.guard.held import grammar_of, in_whole_calls, masks
from ig_plugins.guard.options import Options
from ig_plugins.guard.tool_gains import gains, threshold_here, without_question
from ig_plugins.search import Request
from ig_plugins.search.trace import Recorder

DRAWN = 2**53  # seeds that are drawn are below: whoever reads JSON as JavaScript does would round longer ones

Prompt = str | Sequence[Message]


def drawn_seed() -> int:
    """The seed of a call that names none."""
    return secrets.randbelow(DRAWN)


def encode(components: Components, prompt: Prompt, options: Options) -> EncodedPrompt:
    """The prompt in tokens, tools included.

    Raises:
        PromptError: It cannot be rendered; the message says why.
    """
    if options.raw_prompt:
        return _encode_raw(components.policy.tokenizer, prompt)
    return components.prompt_format.encode(
        prompt,
        tools=list(options.tools) or None,
        tool_choice=options.tool_choice,
        last_assistant=options.last_assistant,
        variables=options.chat_template_kwargs,
        masked=masks(remote=components.remote),
    )


def decide(components: Components, prompt: Prompt, encoded: EncodedPrompt, options: Options) -> EncodedPrompt:
    """The prompt for an answer that is a call, where the model is free to call and the question asks for a tool.

    Args:
        components: With the policy that is asked.
        prompt: The conversation.
        encoded: The same in tokens.
        options: With the ``tool_threshold`` from which on a tool is called.
    """
    threshold = threshold_here(prompt, encoded, options)
    if threshold is None:
        return encoded
    found = weighed(components, prompt, encoded, options)
    best = max(found, key=lambda name: found[name])
    if found[best] < threshold:
        return encoded
    return encode(components, prompt, options.updated(tool_choice={"name": best}))


def weighed(components: Components, prompt: Prompt, encoded: EncodedPrompt, options: Options) -> Mapping[str, float]:
    """By tool, how much likelier the conversation makes its call than one whose last question says nothing."""
    return gains(components.policy, encoded, encode(components, without_question(prompt), options))


def build_request(components: Components, encoded: EncodedPrompt, options: Options, *, stream: bool) -> Request:
    """The search's view of an encoded prompt. Its time runs from now on.

    Raises:
        ContextLengthError: Prompt and answer together are longer than the context.
        ConfigurationError: The policy cannot do what the options ask for.
    """
    policy, search = components.policy, options.search
    policy.check(search, options.logits_processors)
    prompt_ids = [*encoded.prompt_ids, *encoded.prefill_ids]
    check_fits(components, len(prompt_ids), search.max_new_tokens)
    grammar = grammar_of(policy, encoded, options.held_to, max_tokens=search.max_new_tokens)
    if grammar is not None and encoded.opening:
        search = in_whole_calls(search)
    return Request(
        prompt_ids=prompt_ids,
        judge_ids=encoded.prompt_ids,
        judge_prompt=encoded.judge_prompt,
        search=search,
        budgets=options.budgets,
        seed=drawn_seed() if search.seed is None else search.seed,
        prefill_ids=encoded.prefill_ids,
        prefill_text=policy.detokenizer.text(encoded.prefill_ids),
        written=encoded.written,
        written_text=policy.detokenizer.text(encoded.prefill_ids[: encoded.written]),
        stop=options.stop,
        stop_ids=_stop_ids(components, options),
        **_reply_readers(components.policy.tokenizer, encoded),
        stream=stream,
        deadline=None if options.timeout is None else time.monotonic() + options.timeout,
        judge_timeout=options.judge_timeout,
        processors=options.logits_processors,
        watcher=Recorder() if options.trace else None,
        grammar=grammar,
        has_form=grammar is not None and bool(options.held_to or encoded.opening),
    )


def check_fits(components: Components, prompt_tokens: int, answer_tokens: int) -> None:
    """Refuses what the context does not hold.

    Raises:
        ContextLengthError: Naming both lengths and the context.
    """
    context = components.context
    if context is not None and prompt_tokens + answer_tokens > context:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and the answer may have {answer_tokens}, but the "
            f"context holds {context}{components.context_note}; shorten the prompt, or lower max_tokens"
        )


def _encode_raw(tokenizer: Any, prompt: Prompt) -> EncodedPrompt:
    """A text as it is, without a format; the beginning-of-text token is added where it isn't there."""
    if not isinstance(prompt, str) or not prompt:
        raise PromptError("raw_prompt=True needs a non-empty text; leave it out for a list of messages")
    check_unicode(prompt, "the prompt")
    begun = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    ids = tokenizer.encode(prompt, add_special_tokens=not begun)
    return EncodedPrompt(prompt_ids=list(ids), prefill_ids=[], judge_prompt=prompt)


def _stop_ids(components: Components, options: Options) -> frozenset[int]:
    """Tokens that end this call's answer: those named, and special tokens in stop strings, which no text shows."""
    policy = components.policy
    return (frozenset(options.stop_token_ids) | special_in(policy.tokenizer, options.stop)) - policy.stop_ids


def _reply_readers(tokenizer: Any, encoded: EncodedPrompt) -> dict[str, Any]:
    """How answers are taken apart where tools were offered, and what of them a stream holds back."""
    if not encoded.tools:
        return {}
    return {
        "parse": lambda text, ids: parse_reply(
            text,
            ids=ids,  # the stop token too: in some formats it is what ends a call
            tokenizer=tokenizer,
            tools=encoded.tools,
            tool_choice=encoded.tool_choice,
            opening=encoded.opening,
            syntax=encoded.syntax,
            prompt_ids=encoded.prompt_ids,
        ),
        "held_from": lambda text: tool_region(text, opening=encoded.opening, syntax=encoded.syntax),
    }
