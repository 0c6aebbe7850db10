"""What a server is asked for, in no server's words: some continuations of one prefix, in token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ig_plugins.engine import Sampler
from ig_plugins.errors import DecodingError, RemoteReplyError
from ig_plugins.grammar import CompiledGrammar


@dataclass(frozen=True)
class Call:
    """One request for one beam.

    Attributes:
        prefix: The prompt and the beam's tokens.
        count: Continuations.
        max_tokens: Of each.
        sampler: How they are drawn.
        stop_ids: Tokens that end an answer.
        seed: None where the server draws one.
        bias: Added to the logits of some tokens; only the probe uses it.
        grammar: What each continuation must be, from its first token to its end; None for anything.
        session: The same for all calls behind one prompt, so that a router can send them to the replica with its cache.
        key: Under which the server keeps the states of what it samples, where it is asked for them; None where it is
            not. It must sample a token more then, since a token's state is there once the token was read; with a
            ``max_tokens`` of 0 it keeps the state of the prefix's last token.
    """

    prefix: tuple[int, ...]
    count: int
    max_tokens: int
    sampler: Sampler
    stop_ids: frozenset[int]
    seed: int | None = None
    bias: tuple[tuple[int, float], ...] = ()
    grammar: CompiledGrammar | None = None
    session: str | None = None
    key: str | None = None

    @property
    def most(self) -> int:
        """Tokens of a choice at most."""
        return self.max_tokens + (self.key is not None)

    @property
    def reply_bytes(self) -> int:
        """More than any honest reply has."""
        return 2**20 + 64 * len(self.prefix) * (1 + self.count) + 256 * self.count * self.most


@dataclass(frozen=True)
class Choice:
    """One continuation as the server gave it.

    Attributes:
        tokens: Its ids.
        stopped: The server says that it ended by itself.
    """

    tokens: tuple[int, ...]
    stopped: bool


def ids_of(value: Any, *, vocab: int, what: str) -> tuple[int, ...]:
    """Token ids out of a reply.

    Raises:
        RemoteReplyError: They are no list of whole numbers below ``vocab``.
    """
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise RemoteReplyError(f"the server's reply has no token ids as {what}; nothing of it is used")
    if not all(0 <= each < vocab for each in value):
        raise RemoteReplyError(
            f"the server's reply has ids as {what} that are not below {vocab}, as the tokenizer's are; nothing is "
            "used. See that tokenizer= is the server's"
        )
    return tuple(value)


def same_prompt(given: Sequence[int], call: Call) -> None:
    """Refuses a reply to another prompt.

    Raises:
        RemoteReplyError: It is one.
    """
    if tuple(given) != call.prefix:
        raise RemoteReplyError(
            f"the server continued a prompt of {len(given)} tokens that is not the one of {len(call.prefix)} that it "
            "was sent; nothing of it is used. A proxy that tokenises anew, or a truncated prompt, does that"
        )


def in_order(replies: Any, call: Call) -> list[dict[str, Any]]:
    """A reply's choices by their index.

    Raises:
        RemoteReplyError: There are more or fewer than were asked for, or two of the same index.
    """
    if not isinstance(replies, list) or not all(isinstance(each, dict) for each in replies):
        raise RemoteReplyError("the server's reply has no list of choices; nothing of it is used")
    if len(replies) != call.count:
        raise RemoteReplyError(
            f"the server gave {len(replies)} choices where {call.count} were asked for; nothing of it is used"
        )
    places = [each.get("index", 0 if call.count == 1 else None) for each in replies]
    if sorted(places, key=str) != sorted(range(call.count), key=str):
        raise RemoteReplyError("the server's choices are not numbered from 0 on; nothing of the reply is used")
    return [each for _, each in sorted(zip(places, replies, strict=True), key=lambda pair: int(pair[0]))]


def ended(choice: Choice, call: Call, *, echoes: bool) -> tuple[tuple[int, ...], bool]:
    """A lane's tokens and whether the answer ends with them.

    Our stop tokens count, whatever the server's are: what follows one is left out. A server that stops at another token
    of its own ends the answer all the same, and where it does not give the token itself, it is put back. A token that
    was only sampled for the state of the one before is none of the lane's.

    Args:
        choice: As the server gave it.
        call: What it was asked for.
        echoes: Whether it gives the token at which it stops.

    Raises:
        RemoteReplyError: It has more tokens than were asked for, or fewer without having come to an end, or is not what
            its grammar allows.
    """
    tokens, stopped = _whole(choice, call, echoes=echoes)
    tokens, done = tokens[: call.max_tokens], stopped and len(tokens) <= call.max_tokens
    if call.grammar is not None:
        _fits(call.grammar, [each for each in tokens if each not in call.stop_ids], done=done)
    return tokens, done


def _whole(choice: Choice, call: Call, *, echoes: bool) -> tuple[tuple[int, ...], bool]:
    tokens = choice.tokens
    if len(tokens) > call.most:
        raise RemoteReplyError(
            f"the server gave {len(tokens)} tokens where {call.most} at most were asked for; it is not used"
        )
    at = next((place for place, token in enumerate(tokens) if token in call.stop_ids), None)
    if at is not None:
        return tokens[: at + 1], True
    if choice.stopped and not (echoes and tokens):
        tokens = (*tokens, min(call.stop_ids))
        if len(tokens) > call.most:
            raise RemoteReplyError("the server says that a full block ended, without its stop token; it is not used")
    if not choice.stopped and len(tokens) < call.most:
        raise RemoteReplyError(f"the server broke off after {len(tokens)} of {call.most} tokens; nothing of it is used")
    return tokens, choice.stopped


def _fits(grammar: CompiledGrammar, tokens: Sequence[int], *, done: bool) -> None:
    """Refuses what a grammar does not allow, by our own reading of it.

    Raises:
        RemoteReplyError: It does not.
    """
    try:
        whole = grammar.after(tokens).complete or not done
    except DecodingError:
        whole = False
    if not whole:
        raise RemoteReplyError(
            "the server gave an answer that its grammar does not allow; nothing of it is used. Start vLLM with "
            "--structured-outputs-config.backend guidance, which follows grammars as we do"
        )
