"""Grammars made for a tokenizer, and what they allow next."""

import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ig_plugins.errors import ConfigurationError, DecodingError
from ig_plugins.grammar.endings import Endings
from ig_plugins.grammar.library import llguidance
from ig_plugins.grammar.rules import Rule, wrong
from ig_plugins.grammar.vocabulary import Vocabulary

KEPT = 64  # compiled grammars of a policy; one takes about a millisecond to make


class _Policy(Protocol):
    """What a grammar is made for."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With a fast backend."""

    @property
    def stop_ids(self) -> Collection[int]:
        """Tokens that end an answer."""

    @property
    def tree(self) -> Any:
        """With a ``vocab_size``."""


class CompiledGrammar:
    """A grammar that has read the start of an answer; see `engine.decoding.masks.Matcher`.

    Attributes:
        rule: What it was made of.
        read: Tokens that it has read.
    """

    def __init__(self, state: Any, rule: Rule, *, read: int = 0) -> None:
        self._state, self.rule, self.read = state, rule, read

    def after(self, tokens: Sequence[int]) -> "CompiledGrammar":
        """The same with these tokens read too.

        Raises:
            DecodingError: It does not allow them, or they lead too deep.
        """
        state = self._state.deep_copy()
        if tokens and not state.consume_tokens(list(tokens)):
            raise _lost(state)
        return CompiledGrammar(state, self.rule, read=self.read + len(tokens))

    def allowed(self, scores: Tensor | None = None) -> bytes:
        """One bit a token, lowest first; scores change nothing.

        Raises:
            DecodingError: The grammar has become too complex to follow.
        """
        found: bytes = self._state.compute_bitmask()
        if self._state.is_error():
            raise _lost(self._state)
        return found

    @property
    def idle(self) -> bool:
        """Never: the answer is held from its first token on."""
        return False

    @property
    def complete(self) -> bool:
        """Whether what was read is a whole answer."""
        return bool(self._state.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether it is one and nothing may follow."""
        return self.complete and bool(self._state.is_stopped())

    def takes(self, tokens: Sequence[int]) -> bool:
        """Whether all of these tokens may follow, one after the other."""
        return bool(self._state.validate_tokens(list(tokens)) == len(tokens))

    def way_out(self, endings: Endings, *, most: int, thorough: bool = False) -> tuple[int, ...] | None:
        """At most so many tokens that make what was read a whole answer; None if none were found."""
        return (endings.shortest if thorough else endings.find)(self._state, most=most)


class Compiler:
    """Compiles grammars for one policy, and keeps those of late.

    Args:
        policy: Its tokenizer spells, its stop ids end a complete answer, its tree says how many logits there are.

    Raises:
        ConfigurationError: The library is not installed, or cannot read the tokenizer.
    """

    def __init__(self, policy: _Policy) -> None:
        self._library = llguidance()
        try:
            self._tokenizer = self._library.hf.from_tokenizer(
                policy.tokenizer, n_vocab=policy.tree.vocab_size, eos_token=sorted(policy.stop_ids)
            )
        except Exception as error:  # the library has no types of its own
            raise ConfigurationError(
                f"this policy's tokenizer ({type(policy.tokenizer).__name__}) cannot be held to a grammar: {error}; "
                "grammars need a fast tokenizer of bytes or with byte fallback"
            ) from None
        self.stop_ids = frozenset(policy.stop_ids)
        self.vocab_size = int(policy.tree.vocab_size)
        self._made: OrderedDict[str, CompiledGrammar] = OrderedDict()

    @cached_property
    def endings(self) -> Endings:
        """Ways to an answer's end in this vocabulary."""
        return Endings(self._tokenizer)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokens say."""
        return Vocabulary(self._tokenizer)

    def __call__(self, rule: Rule) -> CompiledGrammar:
        """A grammar that has read nothing yet.

        Raises:
            ConfigurationError: It is none for this tokenizer, such as one that names a token which is not there.
        """
        if (known := self._made.get(rule.grammars)) is not None:
            return known
        matcher = self._library.LLMatcher(
            self._tokenizer, json.dumps({"grammars": json.loads(rule.grammars)}), log_level=0
        )
        if matcher.is_error():
            raise wrong(rule.kind, matcher.get_error())
        made = self._made[rule.grammars] = CompiledGrammar(matcher, rule)
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
        return made


_compilers: "WeakKeyDictionary[Any, Compiler]" = WeakKeyDictionary()


def compiler(policy: _Policy) -> Compiler:
    """The policy's compiler, made at its first grammar: reading a vocabulary takes some tenths of a second."""
    found = _compilers.get(policy)
    if found is None:
        found = _compilers[policy] = Compiler(policy)
    return found


def _lost(state: Any) -> DecodingError:
    # The library's own words may quote the answer.
    return DecodingError(f"the grammar cannot be followed any further ({state.stop_reason()}); make it simpler")
