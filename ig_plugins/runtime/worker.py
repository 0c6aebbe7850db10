"""Who decodes: one thread for each guard with work to do, one of them at a time in torch.

Requests of the same guard join the search that is under way, between two blocks; none waits for another to end, and
none changes another's answer. Requests of very different size are decoded apart and take turns (see `shares`), as
guards do, block by block. Callers, threads or event loops alike, only ever wait for events. Where a server samples, a
request waits for the network and not for torch: each of a guard's requests has a line of its own, up to `MAX_ROWS` of
them, and all their calls are under way together.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ig_plugins.errors import ConfigurationError, RequestCancelledError
from ig_plugins.runtime.batch import MAX_ROWS, Batch, Engine, Job, alike, typed
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.runtime.judging import judges_at_work, refuse_cycle
from ig_plugins.runtime.openmp import release_openmp_threads
from ig_plugins.runtime.shares import Shares
from ig_plugins.search import Capacity

SHARE = 0.02  # of a block's time, that the next waits for a request that may join it
MOMENT = 0.02  # seconds that it waits, where that is less, for one more after one has come
LONGEST = 0.05  # of a block's time, the most that it waits while requests keep coming

Key = tuple[int, int]
"""(id of a guard's models, number of the line among theirs)"""

_decoding: ContextVar[bool] = ContextVar("decoding", default=False)
_paces: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()  # seconds that the last block of a guard's models took


class Worker:
    """Hands requests to the lines of their guards. A line lives while it has work; its thread is a daemon."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As new; for a forked child, where no thread is left of those that worked."""
        self._lines: dict[Key, _Line] = {}
        self._backlog: dict[int, list[Job]] = {}  # requests of remote policies for which there is no line yet
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hands requests over; returns at once. The caller's own helper threads are not needed meanwhile.

        Raises:
            ReentrantJudgeError: A judge of these requests waits for whoever asks.
            ConfigurationError: The caller is inside a decoding step, which would wait for itself.
        """
        refuse_within_a_step()
        waiting = judges_at_work()
        for job in jobs:
            refuse_cycle(job.engine.judges, waiting)
            job.waiting = waiting
        release_openmp_threads()
        with self._lock:
            idle = []
            for job in jobs:
                key = self._key(job.engine)
                if key is None:
                    self._backlog.setdefault(id(job.engine), []).append(job)
                    continue
                line = self._lines.get(key)
                if line is None:
                    line = self._lines[key] = _Line(job.engine, key)
                    idle.append(line)
                line.inbox.append(job)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            for line in idle:
                self._start(line)

    def block_seconds(self) -> float:
        """How long the longest of the blocks under way has taken; 0 when nothing is decoded."""
        with self._lock:
            begun = [since for line in self._lines.values() if (since := line.since) is not None]
        return time.monotonic() - min(begun) if begun else 0.0

    def close(self, *, seconds: float = 5.0) -> None:
        """Ends all work after its block and waits so long for it; for the end of the process.

        An interpreter that goes down under a thread inside torch aborts. A thread ends a moment after its last answer.
        """
        self._closing = True
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _key(self, engine: Engine) -> Key | None:
        """The line for one more request; None where it has to wait for one."""
        if not engine.remote:
            return id(engine), 0
        return next((key for place in range(MAX_ROWS) if (key := (id(engine), place)) not in self._lines), None)

    def _start(self, line: _Line) -> None:
        """Gives a line a thread; with the lock."""
        line.thread = threading.Thread(target=self._work, args=(line,), name="inferenceguard", daemon=True)
        self._threads.append(line.thread)
        line.thread.start()

    def _work(self, line: _Line) -> None:
        _decoding.set(True)
        mine: _Line | None = line
        while mine is not None and self._has_work(mine):
            self._gather(mine)
            if left := mine.round(self._while_waiting):
                mine = self._join(left)
            if mine is not None and self._closing:
                mine.abandon(RequestCancelledError("the process ended before the answer"))

    def _has_work(self, line: _Line) -> bool:
        """Takes what has arrived; takes the line out of service when there is nothing to do."""
        with self._lock:
            line.take()
            if not line.busy and (backlog := self._backlog.get(id(line.engine))):
                line.inbox.append(backlog.pop(0))
                line.take()
                if not backlog:
                    del self._backlog[id(line.engine)]
            if line.busy:
                return True
            del self._lines[line.key]
            return False

    def _gather(self, line: _Line) -> None:
        """Gives others a moment to join the block that is about to begin.

        Callers come together, and those whose answers have just ended ask again at once. Who comes too late waits for a
        whole block, and a block of few rows costs each of them more. A proxy before the service lets them come one
        after the other: as long as they do, the block waits for the next.
        """
        if line.expects and not line.engine.remote:
            pace, now = _paces.get(line.engine, 0.0), time.monotonic()
            moment = min(MOMENT, SHARE * pace)
            until, end = now + SHARE * pace, now + LONGEST * pace
            while time.monotonic() < until:
                time.sleep(moment)
                with self._lock:
                    came = bool(line.inbox)
                    line.take()
                if came:
                    until = min(time.monotonic() + moment, end)
        line.expects = False

    def _while_waiting(self, batch: Batch, seconds: float) -> None:
        """Told by a thread whose batch waits for a judge: others of the same guard go on, on a new thread."""
        if self._closing:
            raise RequestCancelledError("the process ended before the answer")
        if seconds < batch.patience:
            return
        with self._lock:
            line = self._lines.get((id(batch.engine), 0))
            if line is not None and line.thread is threading.current_thread() and line.has_more_than(batch):
                line.batches.remove(batch)
                self._start(line)

    def _join(self, left: Left) -> _Line | None:
        """The line that a batch belongs to from now on, if this thread shall go on with it; None if another does."""
        if not (left.batch.jobs or left.again):
            return None
        with self._lock:
            key = (id(left.batch.engine), 0)  # a line of a single request never goes on without it
            line = self._lines.get(key)
            if line is not None:
                line.returned.append(left)
                return None
            line = self._lines[key] = _Line(left.batch.engine, key)
            line.returned.append(left)
            line.thread = threading.current_thread()
            return line


class Left(NamedTuple):
    """A batch that its line went on without, because a judge was slow, and the jobs that it could not serve."""

    batch: Batch
    again: list[Job]


class _Line:
    """The work of one guard: who has just arrived, who waits for a row, and what is being decoded."""

    def __init__(self, engine: Engine, key: Key) -> None:
        self.engine, self.key = engine, key
        self.thread: threading.Thread | None = None
        self.since: float | None = None  # when the block under way began
        self.expects = True  # others may be about to come: this line begins, or somebody's answer has just ended
        self.inbox: list[Job] = []
        self.returned: list[Left] = []
        self.waiting: list[Job] = []
        self.again: list[Job] = []  # their batch failed; each is tried by itself
        self.batches: list[Batch] = []
        self._shares = Shares()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.again or self.batches)

    def take(self) -> None:
        """Takes what has arrived or come back."""
        self.waiting += self.inbox
        for left in self.returned:
            self.again += left.again
            if left.batch.jobs:
                self._join(left.batch)
        self.inbox, self.returned = [], []

    def has_more_than(self, batch: Batch) -> bool:
        """Whether others wait while this batch does."""
        others = any(each is not batch for each in self.batches)
        return bool(others or self.inbox or self.returned or self.waiting or self.again)

    def round(self, while_waiting: Callable[[Batch, float], None]) -> Left | None:
        """Places whoever waits, then decodes one block of the batch whose turn it is.

        Returns:
            The batch with which the calling thread was left, if the line went on without it.
        """
        batch: Batch | None = None
        again: list[Job] = []
        try:
            with torch_lock:
                self._place(while_waiting)
            if self.batches:
                with torch_lock:
                    batch, started = self._shares.next(self.batches), time.monotonic()
                    self.since, asked = started, len(batch.jobs)
                    again = batch.step()
                if self.thread is not threading.current_thread():
                    return Left(batch, again)
                _paces[self.engine] = seconds = time.monotonic() - started
                self._shares.charge(batch, self.batches, seconds=seconds)
                self.expects = len(batch.jobs) < asked and not self.waiting
                self.again += again
            self.batches = [batch for batch in self.batches if batch.jobs]
        except BaseException as error:  # a fault of ours; callers must hear of it rather than wait for ever
            if batch is not None and self.thread is not threading.current_thread():
                batch.abandon(typed(error))
                return Left(batch, again)
            self.abandon(typed(error))
        finally:
            if self.thread is threading.current_thread():
                self.since = None
        return None

    def abandon(self, error: BaseException) -> None:
        """Gives all work up; whoever waits for it is told why."""
        jobs = [*self.waiting, *self.again]
        batches, self.waiting, self.again, self.batches = self.batches, [], [], []
        for job in jobs:
            job.failed(error)
        for batch in batches:
            batch.abandon(error)

    def _place(self, while_waiting: Callable[[Batch, float], None]) -> None:
        """Puts jobs into batches, in order of arrival, as far as there is room."""
        for job in list(self.waiting):
            if interruption := job.request.interruption():
                self.waiting.remove(job)
                job.failed(interruption)
        again, self.again = self.again, []
        for job in again:
            self._open([job], while_waiting, alone=True)
        for batch in self.batches:
            self._fill(batch)
        while stranded := [job for job in self.waiting if not any(b.takes(job.request) for b in self.batches)]:
            self._open(stranded[:MAX_ROWS], while_waiting)

    def _join(self, batch: Batch) -> None:
        """Puts a batch among those that take turns."""
        self._shares.join(batch, self.batches)
        self.batches.append(batch)

    def _open(self, jobs: Sequence[Job], while_waiting: Callable[[Batch, float], None], *, alone: bool = False) -> None:
        """A new batch around the first of these jobs, with room for those of the others that go with it."""
        first = jobs[0]
        try:
            capacity = Capacity.around(alike([job.request for job in jobs]), context=self.engine.context)
            batch = Batch(self.engine, capacity, alone=alone, waiting=while_waiting)
        except BaseException as error:  # no search can be started: fail closed
            self.waiting = [job for job in self.waiting if job is not first]
            first.failed(typed(error))
            return
        self._join(batch)
        self.waiting = [job for job in self.waiting if job is not first]
        batch.add_rows([first])
        self._fill(batch)

    def _fill(self, batch: Batch) -> None:
        """Lets waiting jobs join a batch."""
        for job in list(self.waiting):
            if batch.free and batch.takes(job.request):
                self.waiting.remove(job)
                batch.add_rows([job])


def refuse_within_a_step() -> None:
    """Refuses a caller whom the decoding that it asks for would wait for.

    Raises:
        ConfigurationError: It is inside a decoding step.
    """
    if _decoding.get():
        raise ConfigurationError(
            "a guard was asked from inside a decoding step (by a logits processor or a judge of tokens), which would "
            "wait for itself; ask it before, or from a judge of texts"
        )


_worker = Worker()
atexit.register(_worker.close)


def worker() -> Worker:
    """The process's worker."""
    return _worker
