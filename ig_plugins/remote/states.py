"""The policy's hidden states out of a server's reply, for critics: at a lane's last token, and summed over its block.

Each kind of server has a reader of its own, in the modules beside this one. A reader is made when a guard has a critic;
a server that gives no states is refused then, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ig_plugins.errors import RemoteReplyError
from ig_plugins.remote.calls import Call

Ids = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class States:
    """What a critic reads of one lane of a block; float32, on the CPU.

    Attributes:
        last: Shape (H,), at its last token.
        total: Shape (H,), the sum over all of its tokens.
    """

    last: Tensor
    total: Tensor


class StatesReader(Protocol):
    """Gets the states of sampled lanes.

    Attributes:
        hidden_size: H.
        keyed: Calls must have a key, see `Call.key`.
        longest: The longest sequence that it reads; None for no other limit than the server's.
    """

    hidden_size: int
    keyed: bool
    longest: int | None

    def read(
        self, calls: Sequence[Call], lanes: Sequence[Sequence[Ids]], *, on_step: Callable[[], None] | None = None
    ) -> list[list[States]]:
        """The states of each call's lanes, which are tokens of the block.

        Raises:
            RemoteError: The server failed, or its states are not these lanes'.
        """


def checked(states: Tensor, *, width: int | None) -> Tensor:
    """States out of a reply, shape (..., H).

    Raises:
        RemoteReplyError: Another width than the policy's, or numbers that are none.
    """
    if width is not None and states.shape[-1] != width:
        raise RemoteReplyError(
            f"the server gave states of {states.shape[-1]} numbers where its policy has {width}; nothing of it is used"
        )
    if not bool(torch.isfinite(states).all()):
        raise RemoteReplyError("the server gave states that are not finite; nothing of its reply is used")
    return states
