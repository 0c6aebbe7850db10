"""Free words in which every call that is begun is held to the tools' schemas.

Nothing is masked until a call's start mark is complete. From there to its end mark the call's grammar is followed, and
then words are free again. A token may finish the mark and say more; so the tokens that would finish it are looked at
one step ahead, and only those stay with which a valid call can go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar.calls import StartedCall
from ig_plugins.grammar.closing import ClosingGrammar, closing
from ig_plugins.grammar.compiler import Compiler

Way = tuple[int, ...]


@dataclass(frozen=True)
class Begun:
    """A start mark that was found.

    Attributes:
        tokens: From the one in which the mark begins, to the last.
        lead: What the first of them says before the mark.
    """

    tokens: Way
    lead: str


@dataclass(frozen=True)
class Calls:
    """What all beginnings of one answer share.

    Attributes:
        compiler: The policy's.
        started: The grammar of a call with its start mark.
        max_tokens: Of the answer, within which a call that is begun comes to its end.
    """

    compiler: Compiler
    started: StartedCall
    max_tokens: int
    _whole: dict[str, ClosingGrammar | None] = field(default_factory=dict)
    _held: dict[tuple[Way, int], ClosingGrammar | None] = field(default_factory=dict)
    _masks: dict[tuple[Way, int], bytes | None] = field(default_factory=dict)

    def held(self, begun: Begun, read: int) -> ClosingGrammar | None:
        """The grammar of a call behind its first tokens; None where they begin none that fits into what is left.

        Args:
            begun: Its first tokens.
            read: The answer's tokens before them.
        """
        key = begun.tokens, read
        if key not in self._held:
            self._held[key] = self._closing(begun, self.max_tokens - read)
        return self._held[key]

    def _closing(self, begun: Begun, room: int) -> ClosingGrammar | None:
        if begun.lead not in self._whole:
            self._whole[begun.lead] = self._at_first(begun.lead)
        whole = self._whole[begun.lead]
        if whole is None or not whole.takes(begun.tokens) or max(whole.least or 0, len(begun.tokens)) > room:
            return None
        return whole.within(room).after(begun.tokens)

    def _at_first(self, lead: str) -> ClosingGrammar | None:
        try:
            return closing(self.compiler, self.started.behind(lead), max_tokens=self.max_tokens)
        except ConfigurationError:  # no call is so short
            return None

    def found(self, near: Way) -> Begun | None:
        """The call that the last token begins."""
        if self.started.token is not None:
            return Begun(near[-1:], "") if near[-1:] == (self.started.token,) else None
        spelled = self.compiler.vocabulary
        text = spelled.text(near)
        at = text.find(self.started.mark)
        if at < 0:
            return None
        first, start = 0, 0
        while start + len(spelled[near[first]]) <= at:
            first, start = first + 1, start + len(spelled[near[first]])
        try:
            return Begun(near[first:], text[start:at].decode())
        except UnicodeDecodeError:  # a token of half a character and the mark
            return None

    def near(self, tokens: Way) -> Way:
        """The last of these tokens that may be the start of a mark."""
        if self.started.token is not None:
            return ()
        spelled, mark = self.compiler.vocabulary, self.started.mark
        text = spelled.text(tokens)
        begun = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
        kept: Way = ()
        for token in reversed(tokens):
            if begun <= 0:
                break
            kept, begun = (token, *kept), begun - len(spelled[token])
        return kept

    def mask(self, near: Way, read: int) -> bytes | None:
        """All tokens but those that finish a mark and go on with no call; None where these are none.

        Args:
            near: The last tokens, see `near`.
            read: The answer's tokens before them.
        """
        key = near, read
        if key not in self._masks:
            self._masks[key] = self._mask(near, read)
        return self._masks[key]

    def _mask(self, near: Way, read: int) -> bytes | None:
        finishing = self._finishing(near)
        wrong = [token for token in finishing if not self._goes_on((*near, token), read)]
        if not wrong:
            return None
        bits = np.ones(-(-self.compiler.vocab_size // 8) * 8, dtype=np.uint8)
        bits[wrong] = 0
        return np.packbits(bits, bitorder="little").tobytes()

    def _goes_on(self, tokens: Way, read: int) -> bool:
        begun = self.found(tokens)
        return begun is not None and self.held(begun, read + len(tokens) - len(begun.tokens)) is not None

    def _finishing(self, near: Way) -> Sequence[int]:
        """The tokens behind which the mark is complete."""
        if self.started.token is not None:
            return (self.started.token,)
        spelled, mark = self.compiler.vocabulary, self.started.mark
        text = spelled.text(near)
        rests = [mark[n:] for n in range(1, len(mark)) if text.endswith(mark[:n])]
        return [*spelled.holding(mark), *(token for rest in rests for token in spelled.beginning(rest))]


class FreeCalls:
    """A start of an answer in free words; see the module, and `engine.decoding.masks.Matcher`.

    Args:
        calls: For the whole answer.
        read: Tokens so far.
        near: The last of them that may be the start of a mark.
        call: What the open call allows; None outside of one.
    """

    def __init__(self, calls: Calls, *, read: int = 0, near: Way = (), call: ClosingGrammar | None = None) -> None:
        self._calls, self._read, self._near, self._call = calls, read, near, call

    def after(self, tokens: Sequence[int]) -> FreeCalls:
        """The same with these tokens read too."""
        state = self
        for token in tokens:
            state = state._then(token)
        return state

    def _then(self, token: int) -> FreeCalls:
        read = self._read + 1
        if self._call is not None:
            call = self._call.after([token])
            return FreeCalls(self._calls, read=read, call=None if call.ended else call)
        near = (*self._near, token)
        begun = self._calls.found(near)
        if begun is not None:
            call_ = self._calls.held(begun, read - len(begun.tokens))
            return FreeCalls(self._calls, read=read, call=call_)
        return FreeCalls(self._calls, read=read, near=self._calls.near(near))

    def allowed(self, scores: Tensor) -> bytes | None:
        """One bit a token, lowest first; None for all of them."""
        if self._call is not None:
            return self._call.allowed(scores)
        return self._calls.mask(self._near, self._read - len(self._near))

    @property
    def idle(self) -> bool:
        """Whether no call is open, and no token that may come would begin one that cannot be finished."""
        return self._call is None and self._calls.mask(self._near, self._read - len(self._near)) is None

    @property
    def complete(self) -> bool:
        """Whether no call is open."""
        return self._call is None

    @property
    def ended(self) -> bool:
        """Never: words may always follow."""
        return False
