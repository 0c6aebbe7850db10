"""The requests that one search decodes together, and what happens to them when something goes wrong."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Protocol

import torch

from ig_plugins.runtime.turn import torch_turn
from ig_plugins.search import BlockSearch, Capacity, Outcome, Request, Row, Step
from ig_plugins.search.follow import Ask, Call

MAX_ROWS = 32  # prompts searched in one batch; more wait until a row is free
LARGE = 2048  # lanes times tokens of a block from which on a row is decoded by itself: others wait for its block
ALIKE = 4  # times the work of another's block that a request waits for at most by being decoded together with it
POLL = 0.02  # seconds between two looks at whether anybody still waits for a judge


class Engine(Protocol):
    """What can start a search: loaded models behind a guard."""

    @property
    def context(self) -> int | None:
        """The longest prompt and answer together, in tokens; None for no limit."""

    def start_search(self, capacity: Capacity, *, on_release: Callable[[Row, Step], None], call: Call) -> BlockSearch:
        """A search without rows; ``call`` asks judges of texts."""


class Job(Protocol):
    """One request and who waits for it. Its methods are called on the worker's thread and must not raise."""

    request: Request

    @property
    def engine(self) -> Engine:
        """What decodes it."""

    def released(self, row: Row, step: Step) -> None:
        """Text up to the step may leave."""

    def finished(self, outcome: Outcome) -> None:
        """The request ended."""

    def failed(self, error: BaseException) -> None:
        """The request ended without any verdict; no text leaves."""


class Batch:
    """A search and the jobs that its rows belong to.

    Args:
        engine: The models.
        capacity: The largest rows that may join.
        alone: Nobody may join: its request is tried again by itself, after a batch with it failed.
    """

    def __init__(self, engine: Engine, capacity: Capacity, *, alone: bool = False) -> None:
        self.jobs: dict[Request, Job] = {}
        self.capacity, self._context, self._alone = capacity, engine.context, alone
        self.seconds = 0.0  # of torch that it has had, less what others had when it came
        me = weakref.proxy(self)  # no cycle: a search's keys and values go as soon as its batch is done
        self.search = engine.start_search(
            capacity, on_release=lambda row, step: me._release(row, step), call=lambda ask: me._ask(ask)
        )

    def takes(self, request: Request) -> bool:
        """Whether a request may join, now or when a row is free."""
        fits = not self._alone and self.capacity.holds(request, context=self._context)
        return fits and self.work <= ALIKE * work_of(Capacity.of([request]))

    @property
    def work(self) -> int:
        """Lanes times tokens of its largest block."""
        return work_of(self.capacity)

    @property
    def free(self) -> int:
        """Rows that are not taken."""
        return (1 if self.work > LARGE else MAX_ROWS) - len(self.jobs)

    def admit(self, jobs: Sequence[Job]) -> list[Job]:
        """Adds jobs; returns as `step` does."""
        self.jobs.update({job.request: job for job in jobs})
        return self._guarded(lambda: self.search.admit([job.request for job in jobs]))

    def step(self) -> list[Job]:
        """Decodes one block.

        Returns:
            After a failure, the jobs that deserve another try, each by itself.
        """
        return self._guarded(self._step)

    def _step(self) -> None:
        for outcome in self.search.step():
            self.jobs.pop(outcome.row.request).finished(outcome)

    def _guarded(self, act: Callable[[], None]) -> list[Job]:
        """Fails closed: nobody gets text of a step that failed.

        One request must not cost the others their answers, and nobody can tell whose fault it was. So each starts
        anew by itself; with the same draws it gets the same answer. Not so a stream of which text has left.
        """
        try:
            with torch.inference_mode():
                act()
            return []
        except BaseException as error:
            jobs, self.jobs = list(self.jobs.values()), {}
            again = []
            for job in jobs:
                interruption = job.request.interruption()
                if interruption or len(jobs) == 1 or job.request.begun:
                    job.failed(interruption or error)
                else:
                    job.request.rewind()
                    again.append(job)
            return again

    def _release(self, row: Row, step: Step) -> None:
        self.jobs[row.request].released(row, step)

    def _ask(self, ask: Ask) -> list[float]:
        """Asks a judge of texts on a thread of its own, while other guards may decode.

        A judge that hangs is left behind as soon as nobody waits for this batch any more.
        """
        answer: Future[list[float]] = Future()
        threading.Thread(target=_answer, args=(ask, answer), name="inferenceguard-judge", daemon=True).start()
        with torch_turn.lent():
            while not wait([answer], timeout=POLL).done:
                interruptions = [request.interruption() for request in self.jobs]
                if all(interruptions) and interruptions[0]:
                    raise interruptions[0]
        return answer.result()


def work_of(capacity: Capacity) -> int:
    """Lanes times tokens of a block."""
    return capacity.lanes * capacity.block


def alike(requests: Sequence[Request]) -> list[Request]:
    """The first request, and those of the others that may share a batch with it: all wait for its largest block."""
    chosen, least = [requests[0]], work_of(Capacity.of(requests[:1]))
    for request in requests[1:]:
        smaller = min(least, work_of(Capacity.of([request])))
        if work_of(Capacity.of([*chosen, request])) <= ALIKE * smaller:
            chosen.append(request)
            least = smaller
    return chosen


def _answer(ask: Ask, answer: Future[list[float]]) -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:
        answer.set_exception(error)
