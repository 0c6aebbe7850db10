"""A model that a server runs, in the place of one in this process."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from critic_models.identity import token
from ig_plugins.engine import TreeModel
from ig_plugins.errors import ConfigurationError
from ig_plugins.remote.address import Address
from ig_plugins.remote.calls import Call, Choice
from ig_plugins.remote.connection import Ask, Connection
from ig_plugins.remote.dialects import Dialect
from ig_plugins.remote.options import RemoteOptions
from ig_plugins.remote.probe import SAMPLE
from ig_plugins.remote.server import Server
from ig_plugins.remote.session import RemoteSession
from ig_plugins.remote.states import Ids, States, StatesReader
from ig_plugins.remote.states_reader import states_reader
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.search import Policy, Request, SearchConfig


class RemoteModel:
    """See `ig_plugins.search.PolicyModel`.

    Args:
        address: Where it is.
        options: How it is asked.
        connection: To the server.
        dialect: What it speaks.
        server: What it can do.
        vocab_size: V; ids from there on are refused.
    """

    def __init__(
        self,
        address: Address,
        options: RemoteOptions,
        connection: Connection,
        dialect: Dialect,
        server: Server,
        *,
        vocab_size: int,
    ) -> None:
        self.address, self.options, self.dialect, self.server = address, options, dialect, server
        self.vocab_size = vocab_size
        self.seeds = dialect.seeds if options.seeds is None else options.seeds
        self._connection = connection
        self._reader: StatesReader | None = None

    def with_states(self, prompt: Ids, stop_ids: frozenset[int]) -> RemoteModel:
        """The same model, of which states are asked too.

        Args:
            prompt: Some tokens to try it with.
            stop_ids: Tokens that end an answer.

        Raises:
            UnsupportedModelError: The server gives none; the reason.
        """
        found = copy.copy(self)
        found._reader = states_reader(self.address, self._connection, self.server, self.ask, prompt, stop_ids)
        return found

    @property
    def hidden_size(self) -> int:
        """H of its states; 0 where it is not asked for them."""
        return self._reader.hidden_size if self._reader else 0

    @property
    def keyed(self) -> bool:
        """Calls have a key, under which the server keeps their states."""
        return self._reader is not None and self._reader.keyed

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and answer together; None where the server does not say."""
        whole = None if self.server.context is None else self.server.context - self.keyed
        longest = self._reader.longest if self._reader else None
        return min((each for each in (whole, longest) if each is not None), default=None)

    @property
    def context_note(self) -> str:
        """Why the context ends there."""
        longest = self._reader.longest if self._reader else None
        if longest is not None and longest == self.context != self.server.context:
            return f" (states are read of a physical batch; start {self.address.base} with a longer --ubatch-size)"
        return f" (as {self.address.base} was started)"

    def prefill(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> RemoteSession:
        """A session with one beam a prompt; nothing is sent before a block is sampled."""
        return RemoteSession(self, prompts)

    def ask(self, calls: Sequence[Call], *, on_step: Callable[[], None] | None = None) -> list[list[Choice]]:
        """The choices of some calls, which are under way together; others may use torch meanwhile.

        Raises:
            RemoteError: The server failed, or gave something else than was asked for.
        """
        asks = [
            Ask(self.dialect.path, self.dialect.body(call, model=self.server.model), call.reply_bytes) for call in calls
        ]
        with torch_lock.lent():
            replies = self._connection.ask_all(asks, on_step=on_step)
        pairs = zip(replies, calls, strict=True)
        return [self.dialect.choices(reply, call, vocab=self.vocab_size) for reply, call in pairs]

    def states(
        self, calls: Sequence[Call], lanes: Sequence[Sequence[Ids]], *, on_step: Callable[[], None] | None = None
    ) -> list[list[States]]:
        """The states of each call's lanes; others may use torch meanwhile.

        Raises:
            RemoteError: The server failed, or gave something else than was asked for.
            ConfigurationError: It is not asked for states.
        """
        if self._reader is None:
            raise ConfigurationError(f"{self.address} is not asked for states; attach it with a critic")
        with torch_lock.lent():
            return self._reader.read(calls, lanes, on_step=on_step)

    def description(self) -> dict[str, Any]:
        """What it is, as plain JSON. Weights cannot be read from here; the operator's ``version`` stands for them."""
        known = {"server": self.address.kind, "model": self.server.model}
        if self.options.version is None:
            return {"unknown": f"weights behind {self.address}, of which no version is given", "process": token(self)}
        return {**known, "version": self.options.version}


@dataclass(eq=False)
class RemotePolicy(Policy):
    """A policy that a server samples; what only a model in this process can do is refused.

    Attributes:
        stated: The generation_config beside the tokenizer, or None.
        names: What the served model is known by: as the server names it, and where its tokenizer came from.
    """

    tree: RemoteModel
    stated: Any = None
    names: frozenset[str] = frozenset()
    remote: ClassVar[bool] = True

    @property
    def engine(self) -> TreeModel:
        """There is none.

        Raises:
            ConfigurationError: In any case.
        """
        raise ConfigurationError(
            f"{self.tree.address} gives tokens, and neither states nor logits of a text; probes, training a critic, "
            "and methods that read these need the policy in this process: name it by its hub id or folder"
        )

    def with_states(self) -> RemotePolicy:
        """The same policy for a critic, which reads the states of what is sampled.

        Raises:
            UnsupportedModelError: The server gives none; the reason.
        """
        prompt = tuple(self.tokenizer.encode(SAMPLE, add_special_tokens=True))
        return replace(self, tree=self.tree.with_states(prompt, self.stop_ids))

    def standard(self, search: SearchConfig, *, asked: Collection[str] = ()) -> SearchConfig:
        """See `Policy`."""
        suited = {
            "stratified": False,
            "retry_penalty": 0.0,
            "beams": min(search.beams, self.tree.dialect.beams or search.beams),
        }
        return search.model_copy(update={name: value for name, value in suited.items() if name not in asked})

    def check(self, search: SearchConfig, processors: Sequence[Any] = ()) -> None:
        """Refuses what no server does; see `Policy`."""
        asked = {
            "stratified": search.stratified,
            "retry_penalty": search.retry_penalty > 0,
            "seed": search.seed is not None,
            "logits_processors": bool(processors),
        }
        for name, wanted in asked.items():
            if wanted:
                raise ConfigurationError(f"{self.tree.address}: {_LOST[name]}")
        self.tree.dialect.check(search)

    @property
    def grammars(self) -> bool:
        """See `Policy`."""
        return self.tree.dialect.grammars

    def first_block(self, request: Request) -> int:
        """Tokens after which prefixes end one token behind a page's border; see `Policy`.

        A server computes the last page of a prefix again where it ends on the border. It begins a grammar anew with
        every call, so that an answer that is held to one is a single block.
        """
        search = request.search
        if request.grammar is not None:
            return search.max_new_tokens
        return aligned(len(request.prompt_ids), search.block_tokens, page=self.tree.server.page)


def aligned(prefix: int, block: int, *, page: int) -> int:
    """The first block's tokens, behind a prompt of so many, where all others have ``block``."""
    unit = math.gcd(block, page) if page else 1
    return block - (prefix + block - 1) % unit


_LOST = {
    "stratified": "stratified=True spreads the lanes' draws, and a server draws by itself; leave stratified out",
    "retry_penalty": "a retry_penalty changes logits at each place of a block, which no server takes; leave it out",
    "seed": "the same seed does not give the same answer where a server samples, since what it computes beside it and "
    "its caches change its numbers; leave seed out",
    "logits_processors": "logits_processors (of the call, or the suppress_tokens of a generation_config) are code that "
    "runs where logits are, and a server gives none; leave them out",
}
