"""Loaded models, once each: all that name the same checkpoint share its weights for as long as one of them lives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_loaded: WeakValueDictionary[Hashable, object] = WeakValueDictionary()
_locks: dict[Hashable, threading.Lock] = {}
_guard = threading.Lock()


def reset() -> None:
    """For a forked child: what is loaded stays, and nobody is loading."""
    global _guard
    _guard = threading.Lock()
    _locks.clear()


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """The object of this key, loaded at the first call and whenever nobody holds it any more.

    Args:
        key: Everything that decides what is loaded: source, revision, device, dtype.
        load: Makes it. Two threads that ask at once get one object; a failed load leaves nothing behind.
    """
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        found = _loaded.get(key)
        if found is None:
            found = load()
            _loaded[key] = found
        return found  # type: ignore[return-value]
