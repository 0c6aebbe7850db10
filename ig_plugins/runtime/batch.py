"""The requests that one search decodes together, and what happens to them when something goes wrong."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from critic_models.judges import Judge
from ig_plugins.errors import DecodingError, InferenceGuardError, JudgeTimeoutError, NotEnoughMemoryError
from ig_plugins.observing import watched
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.runtime.question import Question
from ig_plugins.search import BlockSearch, Capacity, Outcome, Request, Row
from ig_plugins.search.scoring.judge_session import Ask, Call

MAX_ROWS = 32  # prompts searched in one batch; more wait until a row is free
LARGE = 2048  # lanes times tokens of a block from which on a row is decoded by itself: others wait for its block
ALIKE = 4  # times the work of another's block that a request waits for at most by being decoded together with it
PATIENCE = 0.5  # seconds that a line waits for a batch's judge before it goes on with other batches
SHORT_PATIENCE = 0.1  # the same for a batch of one request that was late before


class Engine(Protocol):
    """What can start a search: loaded models behind a guard."""

    @property
    def context(self) -> int | None:
        """The longest prompt and answer together, in tokens; None for no limit."""

    @property
    def remote(self) -> bool:
        """Whether a server samples: each of its requests then waits for the network by itself."""

    @property
    def judges(self) -> Sequence[Judge]:
        """All that the search asks."""

    def start_search(self, capacity: Capacity, *, on_release: Callable[[Row, str], None], call: Call) -> BlockSearch:
        """A search without rows; ``call`` asks judges of texts."""


class Job(Protocol):
    """One request and who waits for it. Its methods are called on the worker's thread and must not raise."""

    request: Request
    waiting: Sequence[Judge]
    """The judges that wait for this answer; the worker fills it in."""

    @property
    def engine(self) -> Engine:
        """What decodes it."""

    def released(self, row: Row, text: str) -> None:
        """The answer may leave up to here; the text begins with what has left before."""

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
        waiting: Told again and again for how many seconds this batch waits for a judge.
    """

    def __init__(
        self,
        engine: Engine,
        capacity: Capacity,
        *,
        alone: bool = False,
        waiting: Callable[[Batch, float], None] = lambda batch, seconds: None,
    ) -> None:
        self.engine, self.capacity = engine, capacity
        self.jobs: dict[Request, Job] = {}
        self.seconds = 0.0  # that its blocks have taken, less what others had when it came
        self.patience = min(PATIENCE, SHORT_PATIENCE) if alone else PATIENCE
        self._alone, self._waiting = alone, waiting
        self._context = engine.context
        self._entering: list[Request] = []
        self._late: set[Request] = set()
        me = weakref.proxy(self)  # no cycle: a search's keys and values go as soon as its batch is done
        self.search = engine.start_search(
            capacity, on_release=lambda row, text: me._release(row, text), call=lambda ask: me._ask(ask)
        )

    def takes(self, request: Request) -> bool:
        """Whether a request may join, now or when a row is free.

        Logits processors are a caller's own code: their errors are for that caller alone. Nobody waits for blocks that
        are much larger than its own.
        """
        return (
            not self._alone
            and self.capacity.holds(request, context=self._context)
            and self.work <= ALIKE * work_of(Capacity.of([request]))
            and all(_processors(request) == _processors(other) for other in self.jobs)
        )

    @property
    def work(self) -> int:
        """Lanes times tokens of its largest block."""
        return work_of(self.capacity)

    @property
    def free(self) -> int:
        """Rows that are not taken."""
        return (1 if self.work > LARGE else MAX_ROWS) - len(self.jobs)

    def add_rows(self, jobs: Sequence[Job]) -> None:
        """Adds jobs, from the next block on."""
        self.jobs.update({job.request: job for job in jobs})
        self._entering += [job.request for job in jobs]

    def step(self) -> list[Job]:
        """Decodes one block.

        Fails closed: nobody gets text of a step that failed. One request must not cost the others their answers, and
        where nobody can tell whose fault it was, each starts anew by itself; with the same draws it gets the same
        answer. Not so a stream of which text has left.

        Returns:
            The jobs that deserve another try, each by itself.
        """
        again: list[Job] = []
        try:
            with torch.inference_mode(), watched("block", of=list(self.jobs)):
                self._step(again)
        except BaseException as error:
            alone = len(self.jobs) == 1
            for request in list(self.jobs):
                self._give_back(request, typed(error), again, retry=not (alone or request.interruption()))
        return again

    def abandon(self, error: BaseException) -> None:
        """Gives all jobs up."""
        jobs, self.jobs = self.jobs, {}
        for job in jobs.values():
            job.failed(error)

    def _step(self, again: list[Job]) -> None:
        if self._entering:
            entering, self._entering = self._entering, []
            self.search.add_rows(entering)
        for outcome in self.search.step():
            request = outcome.row.request
            if request in self._late:
                self._give_back(request, outcome.error, again)
            else:
                self.jobs.pop(request).finished(outcome)

    def _give_back(
        self, request: Request, error: BaseException | None, again: list[Job], *, retry: bool = False
    ) -> None:
        """Ends a job, or rewinds it for another try."""
        job = self.jobs.pop(request)
        if (retry or request in self._late) and not request.begun:
            self._late.discard(request)
            request.rewind()
            again.append(job)
        else:
            job.failed(request.interruption() or error or InferenceGuardError("the request ended without a reason"))

    def _release(self, row: Row, text: str) -> None:
        self.jobs[row.request].released(row, text)

    def _ask(self, ask: Ask) -> list[float]:
        """Asks a judge of texts on threads of its own, while other guards may decode.

        A judge that hangs is left behind as soon as nobody waits for this batch any more, or when its time is over.
        """
        question = Question(ask, {request: job.waiting for request, job in self.jobs.items()})
        with torch_lock.lent():
            scores = question.scores(lambda seconds: self._waiting(self, seconds))
        for request, error in question.failed.items():
            request.failure = error
        for request in question.late:
            request.failure = JudgeTimeoutError(
                f"judge {ask.judge.name!r} took so long over this answer that others ran out of time; ask again"
            )
            if not request.begun:
                self._late.add(request)
        interruptions = [request.interruption() for request in self.jobs]
        if all(interruptions) and interruptions[0]:
            raise interruptions[0]
        return scores


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


def typed(error: BaseException) -> InferenceGuardError:
    """An error of decoding as one of ours, with the cause attached."""
    if isinstance(error, InferenceGuardError):
        return error
    known: DecodingError
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
        known = NotEnoughMemoryError(
            "there was not enough memory to decode; ask for fewer candidates, shorter answers or shorter prompts, or "
            "send fewer prompts at once"
        )
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
    else:
        # The exception's own text may quote the prompt, so only its type is named here.
        known = DecodingError(f"decoding failed with {type(error).__name__}; see the cause above")
    known.__cause__ = error
    return known


def _processors(request: Request) -> list[int]:
    return [id(processor) for processor in request.processors]
