"""The lock on torch, granted in the order of asking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ig_plugins.runtime.openmp import release_openmp_threads


class FairLock:
    """A lock that is granted in the order of asking, so that searches take turns, block by block.

    Whoever passes it on ends its own idle OpenMP threads first, which would slow the other down.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As new; for a forked child, where nobody has it or waits for it."""
        self._changed = threading.Condition()
        self._drawn = 0
        self._served = 0
        self._pauses = 0
        self._holder: int | None = None

    def __enter__(self) -> None:
        with self._changed:
            mine = self._drawn
            self._drawn += 1
            self._changed.wait_for(lambda: self._served == mine and not self._pauses)
            self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        if self._drawn > self._served + 1:
            release_openmp_threads()
        with self._changed:
            self._served += 1
            self._holder = None
            self._changed.notify_all()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lets others have their turn for as long as the block lasts; nothing happens for whoever has none."""
        if self._holder != threading.get_ident():
            yield
            return
        release_openmp_threads()
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def pause(self, *, seconds: float) -> None:
        """Nobody gets a turn until `go_on`; waits so long at most for whoever has it now."""
        with self._changed:
            self._pauses += 1
            self._changed.wait_for(lambda: self._holder in (None, threading.get_ident()), timeout=seconds)

    def go_on(self) -> None:
        """Ends a pause."""
        with self._changed:
            self._pauses -= 1
            self._changed.notify_all()


torch_lock = FairLock()
