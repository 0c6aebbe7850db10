"""Whose turn it is to use torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ig_plugins.runtime.team import release_openmp_threads


class Turn:
    """A lock that is granted in the order of asking, so that searches take turns, block by block.

    Whoever gives it to another sends its helper threads home, which would slow the other down.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._drawn = 0
        self._served = 0

    def __enter__(self) -> None:
        with self._changed:
            mine = self._drawn
            self._drawn += 1
            self._changed.wait_for(lambda: self._served == mine)

    def __exit__(self, *_: object) -> None:
        if self._drawn > self._served + 1:
            release_openmp_threads()
        with self._changed:
            self._served += 1
            self._changed.notify_all()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lets others have their turn for as long as the block lasts; only for whoever has it."""
        release_openmp_threads()
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


torch_lock = Turn()
