"""What an answer is held to while it is sampled: the caller's wish, a forced call, or either where calls are free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ig_plugins.engine import Matcher
from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar import (
    Calls,
    FreeCalls,
    Rule,
    call_rule,
    closing,
    compiler,
    installed,
    or_calls,
    rule,
    started_call,
)

if TYPE_CHECKING:
    from ig_plugins.chat import EncodedPrompt, Tool
    from ig_plugins.search import Policy, SearchConfig

CALL_BLOCK = 128  # tokens of a forced call that are one block; longer ones take several, for the sake of memory


def grammar_of(
    policy: Policy, encoded: EncodedPrompt, wish: tuple[str, Any] | None, *, max_tokens: int
) -> Matcher | None:
    """The grammar of a request's answer, behind what the answer was made to start with.

    Args:
        policy: Samples the answer.
        encoded: The prompt, with the tools that may be called and the start of a forced call.
        wish: The kind of grammar and what the caller said; None for none.
        max_tokens: Of the answer, which comes to its end within them.

    Raises:
        ConfigurationError: The wish is no grammar for this policy, its server takes none, a call is forced beside it,
            or ``max_tokens`` are too few for any answer.
    """
    if not policy.grammars:  # forced calls are checked when they are finished, as where the library is missing
        if wish is not None:
            raise ConfigurationError(
                f"{wish[0]} masks tokens where logits are, and this server takes no grammar; leave it out, serve the "
                "policy by vLLM, or name it by its hub id or folder"
            )
        return None
    if encoded.opening:
        if wish is not None:
            raise ConfigurationError(
                f"tool_choice forces a call and {wish[0]} says something else of the answer; leave one of them out"
            )
        return _forced(policy, encoded, max_tokens)
    if wish is None:
        return _free(policy, encoded, max_tokens)
    asked = rule(*wish)
    if encoded.syntax is not None and (tools := _may_call(encoded)):
        asked = or_calls(asked, policy.tokenizer, encoded.syntax, tools)
    return _started(policy, asked, max_tokens)


def masks(*, remote: bool) -> bool:
    """Whether tokens can be masked: the library is there, and logits are not on a server.

    Args:
        remote: A server samples; known by a model's name before anything is loaded.
    """
    return installed() and not remote


def in_whole_calls(search: SearchConfig) -> SearchConfig:
    """The search for a forced call: its candidates are whole calls, and not pieces of ``block_tokens``.

    Nothing of a call leaves before its end. And a piece ends where it happens to, mostly in the names of arguments,
    which are the same in all candidates: a judge of texts that dislikes such a half refuses the request, whatever is
    answered. Judges of tokens read every token as ever.
    """
    return search.model_copy(update={"block_tokens": max(search.block_tokens, CALL_BLOCK)})


def _started(policy: Policy, asked: Rule, max_tokens: int) -> Matcher:
    """A grammar that has read nothing. A server follows it by itself, and knows no way to bring it to its end."""
    return compiler(policy)(asked) if policy.remote else closing(compiler(policy), asked, max_tokens=max_tokens)


def _free(policy: Policy, encoded: EncodedPrompt, max_tokens: int) -> Matcher | None:
    """What holds the calls of an answer in free words; None where they have no grammar, or a server samples."""
    if encoded.syntax is None or not masks(remote=policy.remote):
        return None
    started = started_call(policy.tokenizer, encoded.syntax, encoded.tools)
    if started is None or not _followed(policy, started.behind("")):
        return None
    return FreeCalls(Calls(compiler(policy), started, max_tokens))


def _may_call(encoded: EncodedPrompt) -> list[Tool]:
    """The tools of which a call may stand where a form is wanted.

    Models that are told about tools in words call the same one for ever there; so each is called once for a question.
    """
    told = encoded.syntax is not None and not encoded.syntax.native
    return [tool for tool in encoded.tools if not told or tool["function"]["name"] not in encoded.called]


def _followed(policy: Policy, asked: Rule) -> bool:
    """Whether the library reads the policy's tokenizer, and takes this rule for it."""
    try:
        compiler(policy)(asked)
    except ConfigurationError:
        return False
    return True


def _forced(policy: Policy, encoded: EncodedPrompt, max_tokens: int) -> Matcher | None:
    """A forced call's grammar; None where it cannot be had, and the call is only checked when it is finished."""
    choice = encoded.tool_choice
    allowed = [tool for tool in encoded.tools if choice in ("any", tool["function"]["name"])]
    if encoded.syntax is None or not installed():
        return None
    asked = call_rule(policy.tokenizer, encoded.syntax, allowed, opening=encoded.opening)
    if asked is None or not _followed(policy, asked):
        return None
    return _started(policy, asked, max_tokens)
