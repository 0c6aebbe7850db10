"""Hidden states from llama.cpp's server: its ``/embedding`` without pooling gives a vector for every token.

It reads each lane's whole sequence for that, beside what it sampled, so the server must be started with ``--embeddings
--pooling none`` and a physical batch (``--ubatch-size``) as long as prompts and answers get.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ig_plugins.errors import RemoteError, RemoteReplyError, UnsupportedModelError
from ig_plugins.remote.address import Address
from ig_plugins.remote.calls import Call
from ig_plugins.remote.connection import Ask, Connection
from ig_plugins.remote.states import Ids, States, checked

PATH = "/embedding"
NUMBER_BYTES = 32  # more than a number takes in JSON
PROBE_BYTES = 2**26
BATCH = re.compile(r"current batch size: ([0-9]{1,9})")
START = "start it with --embeddings --pooling none --ubatch-size N, N as long as prompt and answer get"


class LlamaCppStates:
    """See `StatesReader`.

    Args:
        connection: To the server.
        hidden_size: H.
        longest: Its physical batch, where it is shorter than the context.
    """

    keyed = False

    def __init__(self, connection: Connection, *, hidden_size: int, longest: int | None) -> None:
        self._connection, self.hidden_size, self.longest = connection, hidden_size, longest

    @classmethod
    def attach(cls, address: Address, connection: Connection, sample: Ids, *, context: int | None) -> LlamaCppStates:
        """Finds out whether the server gives states.

        Args:
            address: Its.
            connection: To it.
            sample: Some tokens.
            context: The longest sequence, where it says so.

        Raises:
            UnsupportedModelError: It gives none, or pooled ones.
        """
        try:
            states = _states(connection.ask(Ask(PATH, _body(sample), PROBE_BYTES)), len(sample), width=None)
        except RemoteError as error:
            raise UnsupportedModelError(
                f"{address} gives no hidden states, which a critic reads: {error}; {START}, or go without: critic=False"
            ) from error
        longest = None if context is None else cls._longest(connection, sample[:1] * (context + 1))
        return cls(connection, hidden_size=states.shape[-1], longest=longest)

    @staticmethod
    def _longest(connection: Connection, beyond: Ids) -> int | None:
        """The physical batch, which the server names when it refuses more than its context."""
        try:
            connection.ask(Ask(PATH, _body(beyond), PROBE_BYTES))
        except RemoteError as error:
            found = BATCH.search(str(error))
            return int(found[1]) if found else None
        return None

    def read(
        self, calls: Sequence[Call], lanes: Sequence[Sequence[Ids]], *, on_step: Callable[[], None] | None = None
    ) -> list[list[States]]:
        """See `StatesReader`. Equal lanes are asked about once."""
        wanted = {(call.prefix, lane): None for call, mine in zip(calls, lanes, strict=True) for lane in mine}
        asks = [
            Ask(PATH, _body((*prefix, *lane)), 4096 + NUMBER_BYTES * self.hidden_size * (len(prefix) + len(lane)))
            for prefix, lane in wanted
        ]
        replies = self._connection.ask_all(asks, on_step=on_step)
        found = {}
        for (prefix, lane), reply in zip(wanted, replies, strict=True):
            block = _states(reply, len(prefix) + len(lane), width=self.hidden_size)[len(prefix) :]
            found[prefix, lane] = States(block[-1].clone(), block.sum(dim=0))
        return [[found[call.prefix, lane] for lane in mine] for call, mine in zip(calls, lanes, strict=True)]


def _body(ids: Ids) -> dict[str, Any]:
    return {"content": [list(ids)], "embd_normalize": -1}


def _states(reply: Any, count: int, *, width: int | None) -> Tensor:
    """The states of a sequence, shape (T, H).

    Raises:
        RemoteReplyError: They are not one for each of its ``count`` tokens.
    """
    one = reply[0] if isinstance(reply, list) and len(reply) == 1 else None
    rows = one.get("embedding") if isinstance(one, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise RemoteReplyError("the server's reply has no states of tokens; nothing of it is used")
    if len(rows) != count:
        raise RemoteReplyError(
            f"the server gave states of {len(rows)} tokens where it was sent {count}; nothing of it is used"
        )
    try:
        states = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise RemoteReplyError("the server gave states that are no table of numbers; nothing of it is used") from None
    return checked(states, width=width)
