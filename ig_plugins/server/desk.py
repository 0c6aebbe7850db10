"""Where a request is read, checked, tokenised and admitted: all of that once a prompt, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from typing_extensions import Self

from critic_models.safety import SafetyBudget
from ig_plugins.errors import DeadlineExceededError
from ig_plugins.grammar import KINDS
from ig_plugins.guard import InferenceGuard, Options
from ig_plugins.guard.request_handle import RequestHandle
from ig_plugins.server.gate import Gate, Visit
from ig_plugins.server.limits import Limits, lane_tokens
from ig_plugins.server.memory import budget, estimate
from ig_plugins.server.schema import TokenizeRequest
from ig_plugins.server.served import Models, Served

LONG = 65_536  # bytes of a body from which on it is read on another thread, so that short ones need not wait for it
FORMS = (*KINDS, "response_format", "text", "tools")  # what may be hard to read
HEAVY = 4  # times the lane tokens of a usual answer from which on a request counts as heavy

T = TypeVar("T")


class Asked(Protocol):
    """What a client says, in the form of one of the endpoints."""

    @property
    def model(self) -> str | None:
        """Who is asked; None for the first."""

    @property
    def answers(self) -> int:
        """Answers to each prompt."""

    @property
    def streams(self) -> bool:
        """Whether pieces are sent as they are verified."""

    @property
    def counts(self) -> bool:
        """Whether a stream ends with what it took."""

    def prompts(self) -> Sequence[Any]:
        """For the guard."""

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """Options of the call; ``budgets`` are the service's own, which a client may tighten."""

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray) -> Self:
        """Reads it from a body."""


A = TypeVar("A", bound=Asked)


@dataclass(frozen=True)
class Order(Generic[A]):
    """A request that has been read.

    Attributes:
        asked: What the client says.
        served: Who answers.
        prompts: How many there are.
        tickets: One an answer, those of a prompt together.
        takes: Bytes.
        heavy: It is much larger than usual.
        told: Called once it is given up; whoever waits for an answer need not wait for a judge that is being asked.
    """

    asked: A
    served: Served
    prompts: int
    tickets: Sequence[RequestHandle]
    takes: int
    heavy: bool
    told: list[Callable[[], None]] = field(default_factory=list)

    def cancel(self) -> None:
        """Stops decoding."""
        for ticket in self.tickets:
            ticket.cancel()
        for tell in self.told:
            tell()


class Desk:
    """Reads and admits.

    Args:
        models: Who answers.
        limits: Of the operator.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.gate = Gate(running=limits.running, queued=limits.queued, memory=limits.memory_bytes or _room(models))
        self._short, self._long, self._forms = (
            ThreadPoolExecutor(1, thread_name_prefix=f"server-reader-{name}") for name in ("short", "long", "forms")
        )

    async def admitted(self, visit: Visit, raw: bytes, kind: type[A]) -> Order[A]:
        """A request that is checked and whose turn has come.

        Raises:
            ValidationError: The body is no such request.
            InferenceGuardError: Something in it is not allowed, or it could not be admitted.
        """
        try:
            order = await asyncio.wait_for(self._ordered(raw, kind), self.limits.timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise DeadlineExceededError(
                "the request was not read within the timeout; make its schema, grammar or tools simpler, or try again"
            ) from None
        visit.abandon = order.cancel
        deadline = order.tickets[0].request.deadline
        await self.gate.admit(visit, takes=order.takes, heavy=order.heavy, deadline=deadline)
        return order

    async def tokenized(self, raw: bytes) -> dict[str, Any]:
        """The tokens of a text or a conversation, in vLLM's form."""
        return await _aside(self._reader(raw), lambda: self._tokens(raw))

    def _reader(self, raw: bytes) -> ThreadPoolExecutor:
        return self._long if len(raw) >= LONG else self._short

    async def _ordered(self, raw: bytes, kind: type[A]) -> Order[A]:
        """Reads on other threads: everything that takes the longer the longer the prompt is, and forms by themselves.

        A small grammar may take seconds, and a tool may ask the policy; whoever only talks need not wait for that.
        """

        def read() -> A | Order[A]:
            asked = kind.model_validate_json(raw)
            return asked if any(getattr(asked, name, None) for name in FORMS) else self._order(asked)

        found = await _aside(self._reader(raw), read)
        return found if isinstance(found, Order) else await _aside(self._forms, lambda: self._order(found))

    def _order(self, asked: A) -> Order[A]:
        served = self.models.find(asked.model)
        guard = served.guard
        options = asked.options(guard.options.budgets)
        wanted = guard.options.updated(**options)
        options["timeout"] = self.limits.seconds(wanted.timeout)
        prompts = asked.prompts()
        answers = len(prompts) * asked.answers
        self.limits.check(wanted, guard.options, answers=answers)
        tickets: list[RequestHandle] = []
        for prompt in prompts:
            if wanted.tools and wanted.tool_threshold is not None:  # the policy reads the prompt to weigh them
                self.limits.check_prompt(guard.count_tokens(prompt, tools=wanted.tools))
            first = guard.prepare(prompt, stream=asked.streams, **options)
            self.limits.check_prompt(len(first.request.prompt_ids))
            tickets += [first, *(first.sibling(number) for number in range(1, asked.answers))]
        takes = sum(estimate(ticket.request, guard.components) for ticket in tickets)
        # Whoever sees a trace asks for the unguarded answer as well.
        heavy = wanted.trace or answers * _work(wanted) > HEAVY * _work(guard.options)
        return Order(asked, served, len(prompts), tickets, takes, heavy)

    def _tokens(self, raw: bytes) -> dict[str, Any]:
        asked = TokenizeRequest.model_validate_json(raw)
        guard = self.models.find(asked.model).guard
        given = asked.given()
        if isinstance(given, str):
            ids = guard.tokenizer.encode(given, add_special_tokens=asked.add_special_tokens is not False)
        else:
            ids = guard.components.prompt_format.encode(given, tools=asked.tools or None).prompt_ids
        return {"tokens": list(ids), "count": len(ids), "max_model_len": guard.context}


def _aside(reader: ThreadPoolExecutor, work: Callable[[], T]) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(reader, copy_context().run, work)


def _work(options: Options) -> float:
    """Lane tokens of all blocks."""
    search = options.search
    return lane_tokens(options) * max(1.0, search.max_new_tokens / search.block_tokens)


def _room(models: Models) -> int:
    return min(budget(_device(served.guard)) for served in models.served)


def _device(guard: InferenceGuard) -> Any:
    import torch

    body = getattr(guard.components.policy.tree, "body", None)
    return torch.device("cpu") if body is None else body.device
