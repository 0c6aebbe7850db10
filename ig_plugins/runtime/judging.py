"""Judges of texts at work: each call on a thread of its own, and none that waits for itself.

A judge may ask guards, too. Which judges are at work for whom is kept in a context variable, so that it is known
wherever Python hands contexts on: in the judge's own thread, in its tasks, in `asyncio.to_thread` and in LangChain's
executors. A bare thread that a judge starts knows nothing of it; there each call has its limit of time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from contextvars import Context, ContextVar, copy_context

from critic_models.errors import InferenceGuardError, JudgeError, JudgeTimeoutError, ReentrantJudgeError
from critic_models.judges import Judge
from critic_models.judges.protocol import check_scores
from ig_plugins.observing import begin

JUDGE_SECONDS = 60.0  # what one call of a judge may take unless a request says otherwise
MAX_LEFT = 16  # calls of one judge that were given up and have not come back; with so many it is asked no more

_at_work: ContextVar[tuple[Judge, ...]] = ContextVar("judges_at_work", default=())
_lock = threading.Lock()
_left: Counter[int] = Counter()  # by the judge's id, which its thread keeps from being used again


def judges_at_work() -> tuple[Judge, ...]:
    """The judges that wait for what the caller is doing, the last one to be asked at the end."""
    return _at_work.get()


def refuse_cycle(judges: Iterable[Judge], waiting: Sequence[Judge]) -> None:
    """Refuses to ask a judge that waits for this very answer.

    Raises:
        ReentrantJudgeError: One of the judges is among those who wait.
    """
    for judge in judges:
        if any(judge is each for each in waiting):
            way = " -> ".join(repr(each.name) for each in (*waiting, judge))
            raise ReentrantJudgeError(
                f"judge {judge.name!r} asked a guard that would have to ask it again ({way}); let a judge ask only "
                "models and guards that it does not judge itself"
            )


def reset() -> None:
    """For a forked child, where no call is under way."""
    global _lock
    _lock = threading.Lock()
    _left.clear()


class JudgeCall:
    """One call of a judge, under way from the start on.

    Args:
        judge: Who is asked.
        prompts: B prompts.
        responses: B responses so far.
        finished: Which of them are complete; None if that is not known.
        waiting: The judges that wait for this call.
        context: What the judge's thread sees of context variables; nothing by default.

    Raises:
        ReentrantJudgeError: The judge waits for itself.
        JudgeTimeoutError: Too many of its calls have never come back.
    """

    def __init__(
        self,
        judge: Judge,
        prompts: Sequence[str],
        responses: Sequence[str],
        finished: Sequence[bool] | None,
        *,
        waiting: Sequence[Judge] = (),
        context: Context | None = None,
    ) -> None:
        refuse_cycle([judge], waiting)
        with _lock:
            if _left[id(judge)] >= MAX_LEFT:
                raise JudgeTimeoutError(
                    f"judge {judge.name!r} is not asked: {MAX_LEFT} of its calls were given up and still run; "
                    "give it a timeout of its own, or restart the process"
                )
        self.answer: Future[list[float]] = Future()
        self._judge, self._waiting = judge, (*waiting, judge)
        self._asked = (prompts, responses, finished)
        self._is_left = self._is_over = False
        self._watched = begin("judge", judge.name, texts=len(responses))
        self._started = time.monotonic()
        run = (context or Context()).run
        threading.Thread(target=run, args=(self._run,), name="inferenceguard-judge", daemon=True).start()

    @property
    def seconds(self) -> float:
        """How long it takes already."""
        return time.monotonic() - self._started

    def leave(self) -> None:
        """Nobody waits for it any more. A thread cannot be ended; it is counted until it comes back."""
        with _lock:
            if self._is_over or self._is_left:
                return
            self._is_left = True
            _left[id(self._judge)] += 1
        self._watched(self.overdue())

    def overdue(self) -> JudgeTimeoutError:
        """What to tell those who waited in vain."""
        return JudgeTimeoutError(
            f"judge {self._judge.name!r} gave no verdict within {self.seconds:.3g} s; no text is released without one. "
            "Make it faster, or raise judge_timeout"
        )

    def _run(self) -> None:
        _at_work.set(self._waiting)
        prompts, responses, finished = self._asked
        name, count = self._judge.name, len(responses)
        try:  # lists of its own, which a judge may change
            raw = self._judge.score(list(prompts), list(responses), finished=finished and list(finished))
            scores = check_scores(raw, count=count, judge=name)
        except InferenceGuardError as error:
            self._end(error)
        except BaseException as error:  # also a judge that calls sys.exit
            wrapped = JudgeError(f"judge {name!r} raised {type(error).__name__}; see the cause above")
            wrapped.__cause__ = error
            self._end(wrapped)
        else:
            self._end(scores)

    def _end(self, outcome: list[float] | InferenceGuardError) -> None:
        with _lock:
            self._is_over, left = True, self._is_left
            if left:
                _left[id(self._judge)] -= 1
                _left[id(self._judge)] or _left.pop(id(self._judge))
        if not left:
            self._watched(outcome if isinstance(outcome, BaseException) else None)
        if isinstance(outcome, InferenceGuardError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


def ask_judge(
    judge: Judge,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    finished: Sequence[bool] | None = None,
    seconds: float = JUDGE_SECONDS,
) -> list[float]:
    """A judge's verdict, or an error; for those who need no search.

    Raises:
        JudgeError: It failed, took longer than so many seconds, or waits for this very verdict.
    """
    call = JudgeCall(judge, prompts, responses, finished, waiting=judges_at_work(), context=copy_context())
    if not wait([call.answer], timeout=seconds).done:
        call.leave()
        raise call.overdue()
    return call.answer.result()
