"""A model that a server runs, in the place of one in this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from critic_models.identity import token
from ig_plugins.engine import TreeModel
from ig_plugins.errors import ConfigurationError
from ig_plugins.remote.address import Address
from ig_plugins.remote.calls import Call, Choice
from ig_plugins.remote.connection import Ask, Connection
from ig_plugins.remote.dialects import Dialect
from ig_plugins.remote.options import RemoteOptions
from ig_plugins.remote.server import Server
from ig_plugins.remote.session import RemoteSession
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

    hidden_size = 0
    dtype = "the server's"

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

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and answer together; None where the server does not say."""
        return self.server.context

    @property
    def context_note(self) -> str:
        """Why the context ends there."""
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
    """

    tree: RemoteModel
    stated: Any = None
    remote: ClassVar[bool] = True

    @property
    def engine(self) -> TreeModel:
        """There is none.

        Raises:
            ConfigurationError: In any case.
        """
        raise ConfigurationError(
            f"{self.tree.address} gives tokens and neither states nor logits; critics, probes and methods that read "
            "these need the policy in this process: name it by its hub id or folder"
        )

    def standard(self, search: SearchConfig, *, asked: Collection[str] = ()) -> SearchConfig:
        """See `Policy`."""
        lost = {"stratified": False, "retry_penalty": 0.0}
        return search.model_copy(update={name: value for name, value in lost.items() if name not in asked})

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
