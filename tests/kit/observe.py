"""Watching code from outside: does it block the event loop, does it leak, does it hold with many threads."""

import asyncio
import logging
import threading
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, is_dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Ticks(Generic[Result]):
    """What ``count_ticks`` saw: the result, and how often the loop came round meanwhile."""

    result: Result
    ticks: int


async def count_ticks(awaitable: Awaitable[Result], *, every: float = 0.002) -> Ticks[Result]:
    """Awaits something beside a clock on the same event loop; code that blocks the loop stops the clock."""
    ticks = 0

    async def clock() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(every)
            ticks += 1

    ticking = asyncio.ensure_future(clock())
    try:
        result = await awaitable
    finally:
        ticking.cancel()
    return Ticks(result, ticks)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for what happens a moment later on another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


def fan_out(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 8) -> list[Result]:
    """Calls a function on each item from many threads that start together; results in order, the first error raised."""
    items = list(items)
    barrier = threading.Barrier(min(threads, len(items)) or 1)
    first = threading.local()

    def call(item: Item) -> Result:
        if not getattr(first, "started", False):
            first.started = True
            # Threads of the pool are made one by one; nobody begins before all are there.
            barrier.wait(timeout=10)
        return function(item)

    with ThreadPoolExecutor(barrier.parties) as pool:
        return list(pool.map(call, items))


class LeakScanner(logging.Handler):
    """Keeps everything that observers get to see, and finds a marker in it.

    As a context manager it listens to all loggers (at DEBUG) and to warnings. Callback handlers, tracers and stream
    consumers hand what they get to ``see``; exceptions go to ``see_exception``.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[tuple[str, str]] = []
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> "LeakScanner":
        root = logging.getLogger()
        level, quiet = root.level, {}
        for name in list(logging.root.manager.loggerDict):
            logger = logging.getLogger(name)
            quiet[name] = (logger.level, logger.propagate)
            logger.setLevel(logging.DEBUG)
            logger.propagate = True
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        catcher = warnings.catch_warnings(record=True)
        caught = catcher.__enter__()
        warnings.simplefilter("always")

        def undo() -> None:
            for warning in caught or []:
                self.see("warnings", str(warning.message))
            catcher.__exit__(None, None, None)
            root.removeHandler(self)
            root.setLevel(level)
            for name, (old, propagate) in quiet.items():
                logging.getLogger(name).setLevel(old)
                logging.getLogger(name).propagate = propagate

        self._undo.append(undo)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.pop()()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a log record: message, arguments, exception and extra attributes."""
        self.see(f"log {record.name}", record.getMessage(), record.__dict__)
        if record.exc_info and record.exc_info[1]:
            self.see_exception(record.exc_info[1])

    def see(self, source: str, *things: object, **named: object) -> None:
        """Keeps all strings inside the things: containers, dataclasses, models and plain objects are opened."""
        self.seen.extend((source, text) for text in _strings([*things, named], set()))

    def see_exception(self, error: BaseException) -> None:
        """Keeps an exception with its causes, notes, arguments and attributes, as a log or a tracer would."""
        self.see(f"exception {type(error).__name__}", "".join(traceback.format_exception(error)))
        linked: BaseException | None = error
        while linked is not None:
            self.see(f"exception {type(linked).__name__}", linked.args, vars(linked))
            linked = linked.__cause__ or linked.__context__

    def find(self, marker: str) -> list[tuple[str, str]]:
        """(source, excerpt) wherever the marker was seen, case-blind."""
        hits = []
        for source, text in self.seen:
            at = text.lower().find(marker.lower())
            if at >= 0:
                hits.append((source, text[max(0, at - 40) : at + len(marker) + 40]))
        return hits


def _strings(thing: Any, visited: set[int]) -> Iterable[str]:
    if isinstance(thing, str):
        yield thing
        return
    if isinstance(thing, bytes):
        yield thing.decode(errors="replace")
        return
    if thing is None or isinstance(thing, (int, float, type)) or callable(thing) or id(thing) in visited:
        return
    visited.add(id(thing))
    if isinstance(thing, Mapping):
        parts: Iterable[Any] = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts = thing
    elif is_dataclass(thing) or hasattr(thing, "__dict__"):
        # vars() of a pydantic model are its fields; what was passed beside them hangs on the others.
        parts = [
            vars(thing),
            getattr(thing, "__pydantic_extra__", None),
            getattr(thing, "__pydantic_private__", None),
        ]
    else:
        parts = [str(thing)]
    for part in parts:
        yield from _strings(part, visited)
