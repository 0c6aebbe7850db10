"""Where states wait for the guard that asked for them: so many bytes, so long, and only under its key."""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MOST_LANES = 16_384  # that wait, however small


@dataclass(eq=False)
class Lane:
    """The states of one continuation.

    Attributes:
        first: The position in the sequence of the first token whose state is wanted.
        count: Wanted, from there on.
        states: Those seen so far, shape (H,) each.
        broken: Why they cannot be used; empty while they can.
    """

    first: int
    count: int
    states: list[Tensor] = field(default_factory=list)
    broken: str = ""

    def see(self, position: int, state: Tensor) -> int:
        """A token was read.

        Args:
            position: Its, in the sequence.
            state: Shape (H,).

        Returns:
            The bytes that are kept of it. A prompt's tokens and what is read a second time are not.
        """
        wanted = self.first + len(self.states)
        if len(self.states) == self.count or position < wanted:
            return 0
        if position > wanted:
            self.broken = "a step read several tokens of an answer at once"
            return 0
        self.states.append(state)
        return state.numel() * state.element_size()

    def reply(self, index: int, length: int) -> dict[str, Any]:
        """The last of the first ``length`` states and their sum, or of those that there are."""
        states = self.states[:length]
        if self.broken or not states:
            return {"index": index, "tokens": 0, "last": "", "total": "", "broken": self.broken}
        kept = torch.stack(states).float()
        last, total = _encoded(kept[-1]), _encoded(kept.sum(dim=0))
        return {"index": index, "tokens": len(states), "last": last, "total": total, "broken": ""}


@dataclass(eq=False)
class _Request:
    born: float
    lanes: dict[int, Lane] = field(default_factory=dict)
    bytes: int = 0


class StateBuffers:
    """States by key. What does not fit pushes out what was read, then what has waited longest.

    Args:
        most_bytes: Of all states together.
        seconds: That they are kept.
        clock: Tells the time.
    """

    def __init__(self, *, most_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes, self._seconds, self._clock = most_bytes, seconds, clock
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self.bytes = self.lanes = 0

    def open(self, key: str, index: int, *, first: int, count: int) -> Lane:
        """Room for a lane; a request that is sent again under its key begins anew."""
        self._expire()
        request = self._requests.setdefault(key, _Request(self._clock()))
        if index in request.lanes:
            self._drop(key)
            request = self._requests.setdefault(key, _Request(self._clock()))
        lane = request.lanes[index] = Lane(first, count)
        self.lanes += 1
        self._make_room(key)
        return lane

    def see(self, key: str, lane: Lane, position: int, state: Tensor) -> None:
        """A token of a lane was read; see `Lane.see`. Nothing is kept of a lane that is no longer here."""
        request = self._requests.get(key)
        if request is None or lane not in request.lanes.values():
            return
        size = lane.see(position, state)
        request.bytes += size
        self.bytes += size
        self._make_room(key)

    def read(self, key: str, lengths: Sequence[int]) -> list[dict[str, Any]] | None:
        """The states of a request's lanes, see `Lane.reply`; None where none, or not all, are here."""
        self._expire()
        request = self._requests.get(key)
        if request is None or any(index not in request.lanes for index in range(len(lengths))):
            return None
        self._requests.move_to_end(key, last=False)
        return [request.lanes[index].reply(index, length) for index, length in enumerate(lengths)]

    def _make_room(self, key: str) -> None:
        while self.bytes > self._most_bytes or self.lanes > MOST_LANES:
            oldest = next(iter(self._requests))
            self._drop(oldest)
            if oldest == key:
                return

    def _expire(self) -> None:
        end = self._clock() - self._seconds
        for key in [key for key, request in self._requests.items() if request.born < end]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        gone = self._requests.pop(key)
        self.bytes -= gone.bytes
        self.lanes -= len(gone.lanes)


def _encoded(state: Tensor) -> str:
    """Little-endian float32 in base64."""
    return base64.b64encode(state.cpu().numpy().astype("<f4").tobytes()).decode()
