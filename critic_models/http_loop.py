"""One thread with an event loop for all HTTP of the process, and how other threads wait for what it does."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

POLL = 0.02  # seconds between two looks at who still waits


class Loop:
    """Runs coroutines; its thread is a daemon, which begins with the first of them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As new; for a forked child, which has no thread."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins some work."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="inferenceguard-http", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], *, on_step: Callable[[], None] | None = None) -> T:
        """Does some work and waits for it.

        Args:
            work: It.
            on_step: Called again and again meanwhile. What it raises ends the waiting, and the work is cancelled.
        """
        found: list[T] = []
        future = self.submit(_settled(work, found))
        try:
            while not wait([future], timeout=POLL).done:
                if on_step is not None:
                    on_step()
            if error := future.result():
                raise error
            return found[0]
        except BaseException:
            future.cancel()
            raise


async def _settled(work: Coroutine[Any, Any, T], found: list[T]) -> Exception | None:
    """Does some work and gives what it raised: asyncio complains of an error for which nobody waits any more."""
    try:
        found.append(await work)
    except Exception as error:
        return error
    return None


loop = Loop()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=loop.reset)
