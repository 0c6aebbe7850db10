"""Who may come in: so many at once, within a memory budget, so many in a queue, and everybody else comes back later."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ig_plugins.errors import ConfigurationError, DeadlineExceededError, InferenceGuardError

PATIENCE = 5.0  # seconds that the first of the queue is overtaken by those who fit; then they wait with it
RECENT = 0.9  # share of the old in the running mean of how long an answer takes


class BusyError(InferenceGuardError):
    """There is no room now.

    Attributes:
        retry_after: Seconds after which to try again.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosingError(InferenceGuardError):
    """The service is ending."""


@dataclass(eq=False)
class Visit:
    """One request in the house: in the queue until it is admitted, and gone once it is closed."""

    gate: Gate
    bytes: int = 0
    heavy: bool = False
    admitted: bool = False
    since: float = field(default_factory=time.monotonic)
    abandon: Callable[[], None] = lambda: None
    _turn: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        """Leaves; once is enough, and more often does no harm."""
        self.gate.leave(self)


class Gate:
    """The requests in the house. Used on the event loop's thread only.

    Args:
        running: Most requests at once.
        queued: Most that wait.
        memory: Bytes that those at once may take together.
    """

    def __init__(self, *, running: int, queued: int, memory: int) -> None:
        self._running, self._queued, self.memory = running, queued, memory
        self._heavies = max(1, running // 4)  # heavy requests last long; they must not take every place
        self._inside: list[Visit] = []  # in the order of arrival
        self._seconds = 1.0
        self.closing = False

    @property
    def running(self) -> int:
        """Requests that were admitted."""
        return sum(visit.admitted for visit in self._inside)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._inside) - self.running

    @property
    def taken(self) -> int:
        """Bytes that those who were admitted may take."""
        return sum(visit.bytes for visit in self._inside if visit.admitted)

    def enter(self) -> Visit:
        """Takes a place in the queue.

        Raises:
            BusyError: There is none.
            ClosingError: The service is ending.
        """
        if self.closing:
            raise ClosingError("this server is ending and takes no new requests; ask another one")
        if len(self._inside) >= self._running + self._queued:
            raise BusyError(
                f"{self.running} requests are running and {self.queued} wait, which is all that this server takes "
                "(its limits running and queued); try again later",
                retry_after=self._retry_after(),
            )
        visit = Visit(self)
        self._inside.append(visit)
        return visit

    async def admit(self, visit: Visit, *, takes: int, heavy: bool, deadline: float | None) -> None:
        """Waits for room.

        Args:
            visit: Who.
            takes: Bytes that it may take.
            heavy: Whether it is much larger than usual.
            deadline: In `time.monotonic` seconds.

        Raises:
            ConfigurationError: It takes more than there is for all.
            DeadlineExceededError: Its time ran out before its turn came.
            ClosingError: The service is ending.
        """
        if takes > self.memory:
            raise ConfigurationError(
                f"this request may take {_mib(takes)}, and this server allows {_mib(self.memory)} "
                "(its limit memory_bytes); ask for fewer candidates, beams or tokens"
            )
        visit.bytes, visit.heavy = takes, heavy
        self._wake()
        try:
            await asyncio.wait_for(visit._turn.wait(), None if deadline is None else deadline - time.monotonic())
        except (asyncio.TimeoutError, TimeoutError):
            raise DeadlineExceededError(
                f"no turn within the timeout: {self.running} requests were running and {self.queued} waiting; "
                "try again later, or allow more time"
            ) from None
        if not visit.admitted:
            raise ClosingError("this server is ending; ask another one")

    def leave(self, visit: Visit) -> None:
        """See `Visit.close`."""
        if visit not in self._inside:
            return
        self._inside.remove(visit)
        if visit.admitted:
            self._seconds = RECENT * self._seconds + (1 - RECENT) * (time.monotonic() - visit.since)
        self._wake()

    def close(self) -> None:
        """Takes nobody in any more; those who wait and those who run go on."""
        self.closing = True

    def abandon(self) -> None:
        """Ends all that is under way."""
        self.close()
        for visit in self._inside:
            visit.abandon()
            visit._turn.set()

    def _wake(self) -> None:
        """Admits whoever fits, in the order of arrival; a large one at the head is not overtaken for ever."""
        inside = [visit for visit in self._inside if visit.admitted]
        free, places = self.memory - sum(visit.bytes for visit in inside), self._running - len(inside)
        heavies = self._heavies - sum(visit.heavy for visit in inside)
        for visit in self._inside:
            if visit.admitted or not visit.bytes:  # one without bytes is still being read
                continue
            if places < 1:
                return
            if visit.bytes > free or (visit.heavy and heavies < 1):
                if visit.bytes > free and time.monotonic() - visit.since > PATIENCE:
                    return
                continue
            visit.admitted = True
            visit._turn.set()
            free, places, heavies = free - visit.bytes, places - 1, heavies - visit.heavy

    def _retry_after(self) -> int:
        return max(1, min(60, math.ceil(self._seconds * self.queued / self._running)))


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
