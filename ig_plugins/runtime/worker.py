"""One thread owns torch: it takes requests from all callers and merges them into batches, block by block.

Requests of the same guard join the search that is under way, between two blocks; none waits for another to end, and
none changes another's answer. Callers, threads or event loops alike, only ever wait for events.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ig_plugins.search import BlockSearch, Capacity, Outcome, Request, Row, Step

logger = logging.getLogger(__name__)

MAX_ROWS = 32  # prompts searched in one batch; more wait until a row is free


class Engine(Protocol):
    """What can start a search: loaded models behind a guard."""

    def start_search(self, capacity: Capacity, on_release: Callable[[Row, Step], None]) -> BlockSearch:
        """A search without rows."""


class Job(Protocol):
    """One request and who waits for it."""

    engine: Engine
    request: Request

    def released(self, row: Row, step: Step) -> None:
        """Text up to the step may leave."""

    def finished(self, outcome: Outcome) -> None:
        """The request ended."""

    def failed(self, error: BaseException) -> None:
        """The request ended without any verdict; no text leaves."""


@dataclass(eq=False)
class _Running:
    """A search and the jobs that its rows belong to."""

    engine: Engine
    search: BlockSearch
    jobs: dict[Request, Job] = field(default_factory=dict)

    def admit(self, jobs: Sequence[Job]) -> None:
        self.jobs.update({job.request: job for job in jobs})
        self._guarded(lambda: self.search.admit([job.request for job in jobs]))

    def step(self) -> None:
        self._guarded(self._step)

    def _step(self) -> None:
        for outcome in self.search.step():
            self.jobs.pop(outcome.row.request).finished(outcome)

    def _guarded(self, act: Callable[[], None]) -> None:
        """Fails closed: whatever goes wrong, nobody in the batch gets text."""
        try:
            with torch.inference_mode():
                act()
        except BaseException as error:
            jobs, self.jobs = list(self.jobs.values()), {}
            for job in jobs:
                job.failed(error)


class Worker:
    """The thread that decodes. Started by the first request, a daemon, one a process."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._running: list[_Running] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hands requests over; returns at once."""
        for job in jobs:
            self._inbox.put(job)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="inferenceguard", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            self._collect()
            self._place()
            self._step()

    def _step(self) -> None:
        """One block of every search. A method of its own, so that an idle worker's frame holds no model alive."""
        for running in self._running:
            running.step()
        self._running = [running for running in self._running if running.jobs]

    def _collect(self) -> None:
        """Takes what has arrived; waits when there is nothing to do."""
        if not self._running and not self._waiting:
            self._waiting.append(self._inbox.get())
        while not self._inbox.empty():
            self._waiting.append(self._inbox.get())

    def _place(self) -> None:
        """Puts waiting jobs into searches, in order of arrival, as far as there is room."""
        joining: dict[int, list[Job]] = {}
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            try:
                running = self._search_for(job, waiting, joining)
            except BaseException as error:  # no search could be started: fail closed
                job.failed(error)
                continue
            if running is None:
                self._waiting.append(job)
            else:
                joining.setdefault(id(running), []).append(job)
        for running in list(self._running):
            if jobs := joining.get(id(running)):
                running.admit(jobs)

    def _search_for(self, job: Job, waiting: Sequence[Job], joining: dict[int, list[Job]]) -> _Running | None:
        size = Capacity.of([job.request])
        for running in self._running:
            if running.engine is not job.engine:
                continue
            rows = len(running.jobs) + len(joining.get(id(running), []))
            if rows >= MAX_ROWS:
                return None
            if running.search.capacity.holds(size):
                return running
        return self._start(job, waiting)

    def _start(self, job: Job, waiting: Sequence[Job]) -> _Running:
        """A new search with room for the job and for those of its guard that wait with it."""
        alike = [other.request for other in waiting if other.engine is job.engine]
        search = job.engine.start_search(Capacity.of(alike), self._release)
        self._running.append(_Running(job.engine, search))
        return self._running[-1]

    def _release(self, row: Row, step: Step) -> None:
        for running in self._running:
            if job := running.jobs.get(row.request):
                job.released(row, step)


_worker = Worker()


def worker() -> Worker:
    """The process's worker."""
    return _worker
