"""Who decodes: one thread for each guard with work to do, one of them at a time in torch.

Requests of the same guard join the search that is under way, between two blocks; none waits for another to end, and
none changes another's answer. Requests of very different size are decoded apart and take turns (see `shares`), as
guards do, block by block. Callers, threads or event loops alike, only ever wait
for events.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence

from ig_plugins.errors import RequestCancelledError
from ig_plugins.runtime.batch import MAX_ROWS, Batch, Engine, Job, alike
from ig_plugins.runtime.shares import Shares
from ig_plugins.runtime.team import dismiss_team
from ig_plugins.runtime.turn import torch_turn
from ig_plugins.search import Capacity


class Worker:
    """Hands requests to the lines of their guards. A line lives while it has work; its thread is a daemon."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hands requests over; returns at once. The caller's own helper threads are not needed meanwhile."""
        dismiss_team()
        with self._lock:
            idle = []
            for job in jobs:
                line = self._lines.get(id(job.engine))
                if line is None:
                    line = self._lines[id(job.engine)] = _Line(job.engine)
                    idle.append(line)
                line.inbox.append(job)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            for line in idle:
                self._threads.append(
                    threading.Thread(target=self._work, args=(line,), name="inferenceguard", daemon=True)
                )
                self._threads[-1].start()

    def close(self, *, seconds: float = 5.0) -> None:
        """Ends all work after its block and waits so long for it; for the end of the process.

        An interpreter that goes down under a thread inside torch aborts. A thread ends a moment after its last answer.
        """
        self._closing = True
        for thread in self._threads:
            thread.join(seconds)

    def _work(self, line: _Line) -> None:
        while self._has_work(line):
            line.round()
            if self._closing:
                line.abandon(RequestCancelledError("the process ended before the answer"))

    def _has_work(self, line: _Line) -> bool:
        """Takes what has arrived; takes the line out of service when there is nothing to do."""
        with self._lock:
            line.waiting += line.inbox
            line.inbox = []
            if line.busy:
                return True
            del self._lines[id(line.engine)]
            return False


class _Line:
    """The work of one guard: who has just arrived, who waits for a row, and what is being decoded."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.inbox: list[Job] = []
        self.waiting: list[Job] = []
        self._again: list[Job] = []  # their batch failed; each is tried by itself
        self._batches: list[Batch] = []
        self._shares = Shares()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self._again or self._batches)

    def round(self) -> None:
        """Places whoever waits, then decodes one block of the batch whose turn it is."""
        try:
            with torch_turn:
                self._place()
            if self._batches:
                with torch_turn, self._shares.turn(self._batches) as batch:
                    self._again += batch.step()
            self._batches = [batch for batch in self._batches if batch.jobs]
        except BaseException as error:  # a fault of ours; callers must hear of it rather than wait for ever
            self.abandon(error)

    def abandon(self, error: BaseException) -> None:
        """Gives all work up; whoever waits for it is told why."""
        jobs = [*self.waiting, *self._again, *(job for batch in self._batches for job in batch.jobs.values())]
        self.waiting, self._again, self._batches = [], [], []
        for job in jobs:
            job.failed(error)

    def _place(self) -> None:
        """Puts jobs into batches, in order of arrival, as far as there is room."""
        for job in list(self.waiting):
            if interruption := job.request.interruption():
                self.waiting.remove(job)
                job.failed(interruption)
        again, self._again = self._again, []
        for job in again:
            self._open([job], alone=True)
        for batch in self._batches:
            self._fill(batch)
        while stranded := [job for job in self.waiting if not any(b.takes(job.request) for b in self._batches)]:
            self._open(stranded[:MAX_ROWS])

    def _open(self, jobs: Sequence[Job], *, alone: bool = False) -> None:
        """A new batch around the first of these jobs, with room for those of the others that go with it."""
        first = jobs[0]
        try:
            capacity = Capacity.around(alike([job.request for job in jobs]), context=self.engine.context)
            batch = Batch(self.engine, capacity, alone=alone)
        except BaseException as error:  # no search can be started: fail closed
            self.waiting = [job for job in self.waiting if job is not first]
            first.failed(error)
            return
        self._shares.join(batch, self._batches)
        self._batches.append(batch)
        if alone:
            self._again += batch.admit(jobs)
        else:
            self._fill(batch)

    def _fill(self, batch: Batch) -> None:
        """Lets waiting jobs join a batch."""
        fitting = [job for job in self.waiting if batch.takes(job.request)][: batch.free]
        if fitting:
            self.waiting = [job for job in self.waiting if job not in fitting]
            self._again += batch.admit(fitting)


_worker = Worker()
atexit.register(_worker.close)


def worker() -> Worker:
    """The process's worker."""
    return _worker
