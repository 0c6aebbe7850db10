"""One request under way: the worker tells it what happened, the caller waits for chunks and the result."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, cast

from critic_models.judges import Judge
from critic_models.safety import Accounting
from ig_plugins.chat import EncodedPrompt, ParsedReply
from ig_plugins.errors import DeadlineExceededError, InferenceGuardError, RequestCancelledError
from ig_plugins.guard.components import Components
from ig_plugins.guard.options import Options
from ig_plugins.guard.result import BlockRecord, FinishReason, GuardResult, Usage
from ig_plugins.observing import End, begin
from ig_plugins.search import Answer, Outcome, Request, Row
from ig_plugins.search.trace import Recorder, Trace, figures

logger = logging.getLogger(__name__)

GRACE = 0.25  # seconds past the deadline after which a caller no longer waits for the worker to say so


@dataclass(frozen=True)
class GuardChunk:
    """A piece of a streamed answer.

    Attributes:
        text: Verified text, to be appended; may be empty in the last chunk.
        result: The whole result; only in the last chunk.
    """

    text: str
    result: GuardResult | None = None


Event = GuardChunk | BaseException


class RequestHandle:
    """One request between the worker's thread and the caller's.

    Args:
        engine: The loaded parts.
        encoded: The prompt.
        request: The search's view of it.
        options: The call's options.
        certified: What the result says about the guard's certificate.
    """

    def __init__(
        self,
        engine: Components,
        encoded: EncodedPrompt,
        request: Request,
        options: Options,
        *,
        certified: bool | None = None,
    ) -> None:
        self.engine, self.request, self._certified = engine, request, certified
        self._encoded, self._options = encoded, options
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._deliver: Callable[[Event], None] = self._events.put
        self._heard: asyncio.Queue[Event] = asyncio.Queue()
        self._sent = ""
        self._first_text: float | None = None
        self.waiting: Sequence[Judge] = ()
        self._process = os.getpid()
        self._watched: End | None = None

    @property
    def options(self) -> Options:
        """The call's options."""
        return self._options

    def sibling(self, number: int) -> RequestHandle:
        """The same question again, begun, with the seed so much further on; nothing that changes is shared."""
        seed = (self.request.seed + number) % 2**63
        watcher = Recorder() if self._options.trace else None
        again = dataclasses.replace(self.request, seed=seed, cancelled=threading.Event(), watcher=watcher)
        handle = RequestHandle(self.engine, self._encoded, again, self._options, certified=self._certified)
        handle.begin()
        return handle

    def begin(self) -> None:
        """The request's time runs from now on."""
        self._watched = begin("search", of=(self.request,))
        self.request.started = time.monotonic()
        if self._options.timeout is not None:
            self.request.deadline = self.request.started + self._options.timeout

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Events go to `anext` in this loop from now on."""

        def deliver(event: Event) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(self._heard.put_nowait, event)

        self._deliver = deliver

    def released(self, row: Row, text: str) -> None:
        """See `runtime.Job`."""
        if not self._sent:
            self._first_text = time.monotonic() - self.request.started
        self._deliver(GuardChunk(text[len(self._sent) :]))
        self._sent = text

    def finished(self, outcome: Outcome) -> None:
        """See `runtime.Job`."""
        if outcome.error is not None:
            self.failed(outcome.error)
            return
        try:
            result = self._result(outcome.row, outcome.answer)
            # A text that a stream had begun to show before the refusal was never judged alone in a calibration.
            certified = self._certified and not (result.blocked and self._sent)
            told = {"certified": certified, "last_assistant": self._encoded.last_assistant}
            result = result.model_copy(update=told)
        except Exception as error:
            self.failed(error)
            return
        self._end(**_figures(result), failed_tries=outcome.row.tries_made)
        self._deliver(GuardChunk(self._rest(result), result))

    def failed(self, error: BaseException) -> None:
        """See `runtime.Job`."""
        self._end(error)
        self._deliver(error)

    def cancel(self) -> None:
        """Stops decoding at the next step; harmless when the request has ended."""
        self.request.cancelled.set()

    def chunks(self) -> Iterator[GuardChunk]:
        """Waits for the chunks in turn.

        Raises:
            DeadlineExceededError: The request's time ran out.
            InferenceGuardError: Whatever else ended it.
        """
        try:
            while True:
                event = self._next()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.result is not None:
                    return
        finally:
            self.cancel()

    def result(self) -> GuardResult:
        """Waits for the result; errors as in `chunks`."""
        *_, last = self.chunks()
        if last.result is None:
            raise InferenceGuardError("the request ended without a result; please report this as a bug")
        return last.result

    async def anext(self) -> GuardChunk:
        """The next chunk, without blocking the loop; errors as in `chunks`."""
        self._refuse_other_process()
        try:
            event = self._heard.get_nowait()  # what is there is never too late, however slow the caller
        except asyncio.QueueEmpty:
            event = await self._hear()
        if isinstance(event, BaseException):
            raise event
        return event

    async def aresult(self) -> GuardResult:
        """As `result`, without blocking the loop."""
        while (chunk := await self.anext()).result is None:
            pass
        return chunk.result

    async def _hear(self) -> Event:
        try:
            return await asyncio.wait_for(self._heard.get(), timeout=self._seconds_left())
        except (asyncio.TimeoutError, TimeoutError):
            return self._overdue()

    def _refuse_other_process(self) -> None:
        """A forked child has a copy of the handle, and no worker for it."""
        if os.getpid() != self._process:
            raise RequestCancelledError("this answer was begun before a fork, by the parent process; ask again here")

    def _next(self) -> Event:
        """The next event; a judge that hangs does not make the caller hang past the deadline."""
        self._refuse_other_process()
        try:
            return self._events.get(timeout=self._seconds_left())
        except queue.Empty:
            return self._overdue()

    def _seconds_left(self) -> float | None:
        """How long to wait for the next event: until a little past the deadline, for ever without one."""
        deadline = self.request.deadline
        if deadline is None:
            return None
        return min(max(deadline + GRACE - time.monotonic(), 0.0), threading.TIMEOUT_MAX)

    def _overdue(self) -> BaseException:
        """What to tell a caller who waited that long."""
        return self.request.interruption() or DeadlineExceededError("no verified answer in time; allow more time")

    def _end(self, error: BaseException | None = None, **figures: Any) -> None:
        """Tells who watches, once; nothing of it is text."""
        end, self._watched = self._watched, None
        if end is not None:
            end(error, **figures)

    def _rest(self, result: GuardResult) -> str:
        """What the last chunk adds to the text already sent."""
        if not result.blocked:
            return result.text[len(self._sent) :]
        return "\n\n" + result.text if self._sent and result.text else result.text

    def _result(self, row: Row, answer: Answer | None) -> GuardResult:
        if answer is None:
            return self._blocked(row)
        text, reason = answer.text, cast(FinishReason, answer.reason)
        calls: tuple[dict[str, Any], ...] = ()
        invalid: tuple[dict[str, Any], ...] = ()
        if isinstance(answer.reply, ParsedReply):
            text, calls = answer.reply.text, answer.reply.tool_calls
            invalid = tuple(map(asdict, answer.reply.invalid))
            if invalid:
                logger.warning("the answer holds a tool call that is not valid: %s", answer.reply.problem)
            reason = "tool_calls" if calls else reason
        if not text.startswith(self._sent):
            raise InferenceGuardError("the answer does not go on as its stream began; nothing more is released")
        spent, left = figures(answer.trail)
        costs = {name: each for name, each in zip(self.engine.costs, spent, strict=True) if each is not None}
        return GuardResult(
            text=text,
            blocked=False,
            finish_reason=reason,
            cost=max(costs.values(), default=None),
            costs=costs,
            reward=answer.reward,
            safety_state=min((each for each in left if each is not None), default=None),
            accounting=self._accounting(),
            blocks=self._ledger(answer),
            usage=self._usage(row, len(answer.token_ids)),
            seed=self.request.seed,
            seconds=time.monotonic() - self.request.started,
            token_ids=answer.token_ids,
            lag=row.lag if self.request.stream else None,
            first_text_seconds=self._first_text,
            tool_calls=calls,
            trace=self._trace(row, answer),
            invalid_tool_calls=invalid,
        )

    def _blocked(self, row: Row) -> GuardResult:
        search = self.request.search
        return GuardResult(
            text=self._options.refusal if self._options.on_block == "refuse" else "",
            blocked=True,
            reason=f"no candidate of {search.candidates} passed the cost model in {row.tries_made} tries",
            finish_reason="content_filter",
            cost=None,
            reward=None,
            safety_state=None,
            accounting=self._accounting(),
            blocks=(),
            usage=self._usage(row, 0),
            seed=self.request.seed,
            seconds=time.monotonic() - self.request.started,
            lag=row.lag if self.request.stream else None,
            first_text_seconds=self._first_text,
            trace=self._trace(row, None),
        )

    def _trace(self, row: Row, answer: Answer | None) -> Trace | None:
        watcher = self.request.watcher
        return watcher.trace(row, answer, list(self.engine.costs)) if isinstance(watcher, Recorder) else None

    def _accounting(self) -> dict[str, Accounting]:
        return {name: b.accounting for name, b in zip(self.engine.costs, self.request.budgets, strict=True)}

    def _usage(self, row: Row, completion: int) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=completion,
            candidate_tokens=row.candidate_tokens + row.sampled_tokens,
            judge_calls=row.judge_calls,
            judge_tokens=row.judge_tokens,
        )

    def _ledger(self, answer: Answer) -> tuple[BlockRecord, ...]:
        """One record a block; a block that ended without being judged by itself has no figures."""
        records, start = [], 0
        pairs = list(zip(answer.trail.tracks, answer.trail.budgets, strict=True))
        path = answer.step.path()
        for step in path:
            count, end = step.count, None if step is path[-1] else start + len(step.tokens)
            spent = [track.spent(budget, after=start, up_to=end) for track, budget in pairs]
            states = [track.state_within(after=start, up_to=end) for track, _ in pairs]
            start += len(step.tokens)
            if count is not None:
                records.append(
                    BlockRecord(
                        index=count.index,
                        candidates=count.candidates,
                        safe=count.safe,
                        tries=count.tries,
                        tokens=count.tokens,
                        cost=max((each for each in spent if each is not None), default=None),
                        safety_state=min((each for each in states if each is not None), default=None),
                    )
                )
        return tuple(records)


def _figures(result: GuardResult) -> dict[str, Any]:
    """What observers are told of an answer."""
    usage = result.usage
    return {
        "finish_reason": result.finish_reason,
        "blocked": result.blocked,
        "blocks": len(result.blocks),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "candidate_tokens": usage.candidate_tokens,
        "judge_calls": usage.judge_calls,
        "first_text_seconds": result.first_text_seconds,
    }
