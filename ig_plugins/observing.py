"""Watching a guard at work: searches, blocks and calls of judges, told in figures and names, never in texts.

Nobody watches by default, and then a block costs one look at an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

Kind = Literal["search", "block", "judge"]


class End(Protocol):
    """Told when something ends; perhaps on another thread than it began on."""

    def __call__(self, error: BaseException | None = None, **figures: Any) -> None:
        """With the error that ended it, and what came of it."""


class Observer(Protocol):
    """Somebody who watches. It must be quick and must not raise: searches wait for it."""

    def begin(self, kind: Kind, name: str, *, of: Sequence[object], texts: int) -> End:
        """Something begins.

        Args:
            kind: A request's ``search``; a ``block`` of the requests that are decoded together; a ``judge``'s call.
            name: Of the judge.
            of: The requests that it is for, as far as that is known; told apart by ``is``.
            texts: How many a judge reads; padding included where it reads tokens.
        """


_observers: list[Observer] = []


def watch(observer: Observer) -> Callable[[], None]:
    """Tells an observer of everything in this process from now on.

    Returns:
        What ends that.
    """
    _observers.append(observer)

    def stop() -> None:
        if observer in _observers:
            _observers.remove(observer)

    return stop


def begin(kind: Kind, name: str = "", *, of: Sequence[object] = (), texts: int = 0) -> End:
    """Tells observers that something begins; see `Observer.begin`."""
    if not _observers:
        return _unwatched
    ends = [observer.begin(kind, name, of=of, texts=texts) for observer in list(_observers)]

    def end(error: BaseException | None = None, **figures: Any) -> None:
        for each in reversed(ends):
            each(error, **figures)

    return end


@contextmanager
def watched(kind: Kind, name: str = "", *, of: Sequence[object] = (), texts: int = 0) -> Iterator[None]:
    """Tells observers of what is done inside."""
    end = begin(kind, name, of=of, texts=texts)
    try:
        yield
    except BaseException as error:
        end(error)
        raise
    end()


def _unwatched(error: BaseException | None = None, **figures: Any) -> None: ...
