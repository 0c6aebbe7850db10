"""What an answer is held to while it is sampled: the caller's wish, a forced call, or either where calls are free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar import CompiledGrammar, call_rule, compiler, installed, or_calls, rule

if TYPE_CHECKING:
    from ig_plugins.chat import EncodedPrompt
    from ig_plugins.search import Policy


def grammar_of(policy: Policy, encoded: EncodedPrompt, wish: tuple[str, Any] | None) -> CompiledGrammar | None:
    """The grammar of a request's answer, behind what the answer was made to start with.

    Args:
        policy: Samples the answer.
        encoded: The prompt, with the tools that may be called and the start of a forced call.
        wish: The kind of grammar and what the caller said; None for none.

    Raises:
        ConfigurationError: The wish is no grammar for this policy, its server takes none, or a call is forced beside
            it.
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
        return _forced(policy, encoded)
    if wish is None:
        return None
    asked = rule(*wish)
    if encoded.syntax is not None:
        asked = or_calls(asked, policy.tokenizer, encoded.syntax, encoded.tools)
    return compiler(policy)(asked)


def _forced(policy: Policy, encoded: EncodedPrompt) -> CompiledGrammar | None:
    """A forced call's grammar; None where it cannot be had, and the call is only checked when it is finished."""
    choice = encoded.tool_choice
    allowed = [tool for tool in encoded.tools if choice in ("any", tool["function"]["name"])]
    if encoded.syntax is None or not installed():
        return None
    asked = call_rule(policy.tokenizer, encoded.syntax, allowed, opening=encoded.opening)
    try:
        return None if asked is None else compiler(policy)(asked)
    except ConfigurationError:  # a tokenizer that the library cannot read
        return None
