"""Hidden states from vLLM, by the plugin in ``adapters/inferenceguard_vllm``: kept under a call's key while it samples.

The state of a token is there once it was read, so a block is sampled one token longer. The token that ends an answer is
never read by vLLM; it is sent once more, behind what is in vLLM's cache by then.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ig_plugins.engine import Sampler
from ig_plugins.errors import RemoteError, RemoteReplyError, UnsupportedModelError
from ig_plugins.remote.address import Address
from ig_plugins.remote.calls import Call, Choice, ended
from ig_plugins.remote.connection import Ask, Connection
from ig_plugins.remote.states import Ids, States, checked

PATH = "/v1/inferenceguard/states"
NUMBER = np.dtype("<f4")
START = "start vLLM with VLLM_PLUGINS=inferenceguard and --api-key, see docs/remote.md"


class Sampling(Protocol):
    """What samples calls; `ig_plugins.remote.RemoteModel.ask` does."""

    def __call__(self, calls: Sequence[Call], *, on_step: Callable[[], None] | None = None) -> list[list[Choice]]:
        """The choices of some calls."""


class VllmStates:
    """See `StatesReader`.

    Args:
        connection: To the server.
        sample: Samples calls there.
        hidden_size: H.
    """

    keyed = True
    longest: int | None = None

    def __init__(self, connection: Connection, sample: Sampling, *, hidden_size: int) -> None:
        self._connection, self._sample, self.hidden_size = connection, sample, hidden_size

    @classmethod
    def attach(
        cls, address: Address, connection: Connection, sample: Sampling, prompt: Ids, stop_ids: frozenset[int]
    ) -> VllmStates:
        """Finds out whether the server gives states.

        Args:
            address: Its.
            connection: To it.
            sample: Samples calls there.
            prompt: Some tokens.
            stop_ids: Tokens that end an answer.

        Raises:
            UnsupportedModelError: It gives none; the reason.
        """
        try:
            said = connection.ask(Ask(PATH))
            width = said.get("hidden_size") if isinstance(said, dict) else None
            if type(width) is not int or width < 1:
                raise RemoteReplyError(f"{address.base}{PATH} does not say how wide its states are")
            found = cls(connection, sample, hidden_size=width)
            call = Call(prompt, 1, 2, Sampler(), stop_ids, key=secrets.token_hex(16))
            ((choice,),) = sample([call])
            found.read([call], [[ended(choice, call, echoes=True)[0]]])
        except RemoteError as error:
            raise UnsupportedModelError(
                f"{address} gives no hidden states, which a critic reads: {error}; {START}, or go without: critic=False"
            ) from error
        return found

    def read(
        self, calls: Sequence[Call], lanes: Sequence[Sequence[Ids]], *, on_step: Callable[[], None] | None = None
    ) -> list[list[States]]:
        """See `StatesReader`."""
        wanted = [[max(1, len(lane)) for lane in mine] for mine in lanes]
        kept = self._kept(calls, wanted, on_step)
        ends: dict[tuple[int, int], Call] = {}
        for at, (call, mine) in enumerate(zip(calls, lanes, strict=True)):
            for place, lane in enumerate(mine):
                missing = wanted[at][place] - kept[at][place][0]
                if missing == 1 and lane and lane[-1] in call.stop_ids:
                    ends[at, place] = end_of((*call.prefix, *lane), call.stop_ids)
                elif missing:
                    raise RemoteReplyError(
                        f"the server has the states of {kept[at][place][0]} tokens of a block of {wanted[at][place]}; "
                        "it is not used"
                    )
        last = self._of_ends(list(ends.values()), on_step)
        for (at, place), state in zip(ends, last, strict=True):
            kept[at][place] = wanted[at][place], States(state, kept[at][place][1].total + state)
        return [[states for _, states in mine] for mine in kept]

    def _of_ends(self, calls: list[Call], on_step: Callable[[], None] | None) -> list[Tensor]:
        """The states of the last tokens of some sequences."""
        if not calls:
            return []
        self._sample(calls, on_step=on_step)
        kept = self._kept(calls, [[1]] * len(calls), on_step)
        if any(count != 1 for ((count, _),) in kept):
            raise RemoteReplyError("the server has no state of the token that ends an answer; it is not used")
        return [states.last for ((_, states),) in kept]

    def _kept(
        self, calls: Sequence[Call], lengths: Sequence[Sequence[int]], on_step: Callable[[], None] | None
    ) -> list[list[tuple[int, States]]]:
        """What the server has of each call's lanes: of how many tokens, up to so many, and their states."""
        keys = [str(call.key) for call in calls]
        body = {"reads": [{"key": key, "lengths": list(mine)} for key, mine in zip(keys, lengths, strict=True)]}
        most = 2**16 + sum(map(len, lengths)) * (1024 + 12 * self.hidden_size)
        (reply,) = self._connection.ask_all([Ask(PATH, body, most)], on_step=on_step)
        reads = reply.get("reads") if isinstance(reply, dict) else None
        if not isinstance(reads, list) or [each.get("key") for each in reads if isinstance(each, dict)] != keys:
            raise RemoteReplyError("the server gave the states of other requests; nothing of its reply is used")
        return [self._lanes(each.get("lanes"), mine) for each, mine in zip(reads, lengths, strict=True)]

    def _lanes(self, lanes: Any, lengths: Sequence[int]) -> list[tuple[int, States]]:
        if lanes is None:
            raise RemoteReplyError(
                "the server no longer has the states of this block; it keeps INFERENCEGUARD_STATES_MIB of them for "
                "INFERENCEGUARD_STATES_SECONDS"
            )
        if not isinstance(lanes, list) or len(lanes) != len(lengths) or not all(isinstance(x, dict) for x in lanes):
            raise RemoteReplyError("the server gave the states of more or fewer lanes; nothing of its reply is used")
        found = []
        for index, (lane, length) in enumerate(zip(lanes, lengths, strict=True)):
            count = lane.get("tokens")
            if lane.get("index") != index or type(count) is not int or not 0 <= count <= length or lane.get("broken"):
                raise RemoteReplyError(f"the server has no states of lane {index} of a block; its log says why")
            zeros = torch.zeros(self.hidden_size)
            found.append(
                (
                    count,
                    States(self._state(lane.get("last")), self._state(lane.get("total")))
                    if count
                    else States(zeros, zeros),
                )
            )
        return found

    def _state(self, text: Any) -> Tensor:
        try:
            raw = base64.b64decode(text, validate=True)
            numbers = np.frombuffer(raw, dtype=NUMBER).astype(np.float32)
        except (TypeError, ValueError, binascii.Error):
            raise RemoteReplyError("the server gave a state that is no float32 in base64; it is not used") from None
        return checked(torch.from_numpy(numbers), width=self.hidden_size)


def end_of(sequence: Ids, stop_ids: frozenset[int]) -> Call:
    """A call that only reads a sequence, for the state of its last token."""
    return Call(sequence, 1, 0, Sampler(temperature=0.0), stop_ids, key=secrets.token_hex(16))
