"""Measuring side by side on a machine that others use too."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

ResultT = TypeVar("ResultT")


@dataclass
class Timing:
    """Wall and processor seconds of the runs of one contender, and what the last of them returned."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    result: Any = None

    def summary(self) -> dict[str, Any]:
        """Medians, and every run."""
        return {
            "wall": statistics.median(self.wall),
            "cpu": statistics.median(self.cpu),
            "runs": {"wall": self.wall, "cpu": self.cpu},
        }


def interleaved(contenders: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, Timing]:
    """Run every contender in turn, so that a busy moment of the machine meets all of them alike.

    The processor clock counts only this process; it is the fairer one where the machine is shared.
    """
    timings = {name: Timing() for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            timings[name].result = run()
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
    return timings


class Stopwatch:
    """Processor seconds spent inside some methods of some objects."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def on(self, thing: object, *methods: str) -> Iterator[None]:
        """Time these methods of one object while the context lasts."""
        try:
            for method in methods:
                setattr(thing, method, self._timed(getattr(thing, method)))
            yield
        finally:
            for method in methods:
                thing.__dict__.pop(method, None)

    def _timed(self, call: Callable[..., ResultT]) -> Callable[..., ResultT]:
        def timed(*args: Any, **kwargs: Any) -> ResultT:
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start

        return timed


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
