"""One call of a judge of texts for all requests of a batch, whose failures stay with the request that causes them.

The judge is asked about all texts at once. Where that fails, or lasts so long that others run out of time, it is asked
about each request by itself: the request whose text the judge cannot score fails, or is tried again outside the batch,
and the others go on with their scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait

from critic_models.errors import InferenceGuardError
from critic_models.judges import Judge
from ig_plugins.runtime.judging import JudgeCall
from ig_plugins.search import Request
from ig_plugins.search.scoring.judge_session import Ask

POLL = 0.02  # seconds between two looks at the open calls
LEAST_WAIT = 0.25  # seconds that a judge has in any case, however near a deadline is
MOST_SINGLE = 8  # single calls at once; one that takes longer than LEAST_WAIT no longer counts
UNJUDGED = 1e30  # stands in for the scores of a request that has failed; unsafe if it is read


class Question:
    """Asks the judge, and finds the requests that it fails on.

    Args:
        ask: The texts.
        batch: All requests that wait for the answer, and the judges that wait for each of them.

    Attributes:
        failed: Requests without valid scores, and why.
        late: Requests whose own call keeps the others waiting.
    """

    def __init__(self, ask: Ask, batch: Mapping[Request, Sequence[Judge]]) -> None:
        self._ask, self._batch = ask, batch
        self._open: dict[Request, list[int]] = {}  # requests without an answer, and where their texts are
        for place, request in enumerate(ask.requests):
            if request.interruption() is None:
                self._open.setdefault(request, []).append(place)
        self._scores: dict[int, float] = {}
        self._joint: JudgeCall | None = None
        self._split_at: float | None = None
        self._queue: list[Request] = []
        self._single: dict[Request, JudgeCall] = {}
        self.failed: dict[Request, InferenceGuardError] = {}
        self.late: list[Request] = []

    def scores(self, waiting: Callable[[float], None]) -> list[float]:
        """The scores of all texts; those of requests that failed, are late or interrupted mean nothing.

        Args:
            waiting: Told again and again for how many seconds we wait; what it raises ends the waiting.
        """
        started = time.monotonic()
        try:
            if self._open:
                self._begin()
            while self._open:
                calls = [call.answer for call in (self._joint, *self._single.values()) if call is not None]
                wait(calls, timeout=POLL, return_when=FIRST_COMPLETED)
                self._look()
                if self._open:
                    waiting(time.monotonic() - started)
        finally:
            for call in (self._joint, *self._single.values()):
                if call is not None:
                    call.leave()
        return [self._scores.get(place, UNJUDGED) for place in range(len(self._ask.requests))]

    def _begin(self) -> None:
        self._patience = self._longest_wait(self._batch)
        try:
            self._joint = self._call(list(self._open))
        except InferenceGuardError as error:
            self._after_failure(error)

    def _look(self) -> None:
        """Takes the results that have come, and gives up requests that are interrupted or late."""
        for request in [each for each in self._open if each.interruption()]:
            del self._open[request]  # nobody waits for it any more
        if self._joint is not None:
            self._look_at_joint(self._joint)
        for request, call in list(self._single.items()):
            self._look_at_single(request, call)
        while self._queue and sum(call.seconds < LEAST_WAIT for call in self._single.values()) < MOST_SINGLE:
            self._ask_alone(self._queue.pop(0))
        self._give_up_late()

    def _look_at_joint(self, call: JudgeCall) -> None:
        if call.answer.done():
            self._joint = None
            if error := call.answer.exception():
                self._after_failure(error)
            else:
                self._take(list(self._open), call.answer.result())
        elif self._split_at is None and call.seconds > self._patience and len(self._open) > 1:
            self._split()
        elif call.seconds > max((request.judge_timeout for request in self._open), default=0.0):
            call.leave()
            self._joint = None
            self._after_failure(call.overdue())

    def _look_at_single(self, request: Request, call: JudgeCall) -> None:
        if request in self._open and not call.answer.done() and call.seconds <= request.judge_timeout:
            return
        del self._single[request]
        if request not in self._open:
            call.leave()
        elif not call.answer.done():
            call.leave()
            self._fail(request, call.overdue())
        elif error := call.answer.exception():
            self._fail(request, error)
        else:
            self._take([request], call.answer.result())

    def _give_up_late(self) -> None:
        """Requests that keep the others waiting for longer than these can leave the batch."""
        others = [each for each in self._batch if each not in self._open and not each.interruption()]
        if not (others and self._open) or self._queue:
            return
        began = self._split_at
        waited = time.monotonic() - began if began else self._joint.seconds if self._joint else 0.0
        if waited > (self._longest_wait(others) if began else self._patience):
            self.late += self._open
            self._open.clear()

    def _longest_wait(self, requests: Mapping[Request, object] | Sequence[Request]) -> float:
        """Seconds that these can wait and still have half of their time."""
        now, waiting = time.monotonic(), [each for each in requests if not each.interruption()]
        left = [(each.deadline - now) / 2 for each in waiting if each.deadline is not None]
        return max(LEAST_WAIT, min([*left, *(each.judge_timeout / 2 for each in waiting)], default=0.0))

    def _after_failure(self, error: BaseException) -> None:
        """The call about all of them failed: a single request fails with it, several are asked about one by one."""
        if len(self._open) > 1 and self._split_at is None:
            self._split()
        elif not self._single and not self._queue:
            for request in list(self._open):
                self._fail(request, error)

    def _split(self) -> None:
        self._split_at = time.monotonic()
        self._queue = list(self._open)

    def _ask_alone(self, request: Request) -> None:
        if request in self._open:
            try:
                self._single[request] = self._call([request])
            except InferenceGuardError as error:
                self._fail(request, error)

    def _call(self, requests: Sequence[Request]) -> JudgeCall:
        ask, places = self._ask, [place for request in requests for place in self._open[request]]
        waiting = [judge for request in requests for judge in self._batch.get(request, ())]
        return JudgeCall(
            ask.judge,
            [ask.prompts[place] for place in places],
            [ask.responses[place] for place in places],
            [ask.finished[place] for place in places],
            waiting=list({id(judge): judge for judge in waiting}.values()),
        )

    def _take(self, requests: Sequence[Request], scores: Sequence[float]) -> None:
        places = [place for request in requests for place in self._open.pop(request)]
        self._scores.update(zip(places, scores, strict=True))

    def _fail(self, request: Request, error: BaseException) -> None:
        del self._open[request]
        self.failed[request] = error  # type: ignore[assignment]  # JudgeCall makes all errors ours
