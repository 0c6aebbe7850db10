"""Loaded models, once each: all that name the same checkpoint share its weights for as long as one of them lives."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
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


def place_of(name: Any) -> Any:
    """A name as part of a key: one that leads to this disk by what it leads to, which changes with the folder.

    Args:
        name: Of a checkpoint, or of a function in a file, whose content may change as well; anything else stays.
    """
    if not isinstance(name, str):
        return name
    for path, rest in ((name, ""), name.rpartition(":")[::2]):
        full = os.path.abspath(os.path.expanduser(path))
        if path and os.path.exists(full):
            known = os.stat(full)
            return full, rest, (known.st_mtime_ns, known.st_size) if os.path.isfile(full) else None
    return name
