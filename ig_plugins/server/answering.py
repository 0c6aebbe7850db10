"""From admitted requests to what is sent: several answers under way at once, pieces as they come, and their ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ig_plugins.errors import InferenceGuardError, RequestCancelledError
from ig_plugins.guard import GuardResult
from ig_plugins.guard.request_handle import GuardChunk
from ig_plugins.server.desk import Order
from ig_plugins.server.errors import described
from ig_plugins.server.forms import Form
from ig_plugins.server.gate import Visit
from ig_plugins.server.schema import ChatRequest

T = TypeVar("T")


class Told(Protocol):
    """Who counts answers; see `Metrics`."""

    def answered(self, model: str, result: GuardResult) -> None:
        """An answer has been found, or it is known that there is none."""

    def failed(self, model: str, error: Exception) -> None:
        """An answer was given up."""


async def results(order: Order[Any], told: Told | None = None) -> list[GuardResult]:
    """All answers, in order. The first one that fails ends all of them.

    Raises:
        InferenceGuardError: There is no answer.
    """
    found: dict[int, GuardResult] = {}
    async with aclosing(_chunks(order, told)) as chunks:
        async for index, chunk in chunks:
            if chunk.result is not None:
                found[index] = chunk.result
    return [found[index] for index in sorted(found)]


async def events(order: Order[Any], form: Form, told: Told | None = None) -> AsyncIterator[str]:
    """Server-sent events: pieces of verified text, the report with the last of each answer."""
    counts, answers = order.asked.counts, len(order.tickets)
    found: dict[int, GuardResult] = {}
    try:
        for event in form.begun(answers, counts=counts):
            yield _event(event)
        async with aclosing(_chunks(order, told)) as chunks:
            async for index, chunk in chunks:
                if chunk.result is not None:
                    found[index] = chunk.result
                for event in form.piece(index, chunk, only=answers == 1, counts=counts):
                    yield _event(event)
        if counts:
            yield _event(form.total([found[index] for index in sorted(found)], order.prompts))
    except InferenceGuardError as error:
        yield _event({"error": described(error)})
    yield "data: [DONE]\n\n"


class Events(StreamingResponse):
    """A stream that leaves the gate however it ends, also when it never began."""

    def __init__(self, visit: Visit, sent: AsyncIterator[str]) -> None:
        super().__init__(sent, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def sent(message: Message) -> None:
            await send(message)
            # Pieces that are ready would be written in one go, into a connection that the first of them has found
            # closed. Here the loop hears of that, and nothing more is written.
            await asyncio.sleep(0)

        try:
            await super().__call__(scope, receive, sent)
        finally:
            self._visit.abandon()
            self._visit.close()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Waits for work, and gives it up when the client goes away.

    Raises:
        ClientDisconnect: It did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chunks(order: Order[Any], told: Told | None) -> AsyncGenerator[tuple[int, GuardChunk], None]:
    """The pieces of all answers as they come, each with the answer's number."""
    heard: asyncio.Queue[tuple[int, GuardChunk | Exception]] = asyncio.Queue()

    async def follow(index: int) -> None:
        try:
            async with aclosing(order.served.guard.follow(order.tickets[index])) as chunks:
                async for chunk in chunks:
                    heard.put_nowait((index, _fewer_calls(order, chunk)))
        except Exception as error:
            heard.put_nowait((index, error))

    order.told.append(lambda: heard.put_nowait((0, RequestCancelledError("the answer was given up; ask again"))))
    tasks = [asyncio.ensure_future(follow(index)) for index in range(len(order.tickets))]
    left = len(tasks)
    try:
        while left:
            index, chunk = await heard.get()
            if isinstance(chunk, Exception):
                if told is not None:
                    told.failed(order.served.name, chunk)
                raise chunk
            if chunk.result is not None and told is not None:
                told.answered(order.served.name, chunk.result)
            yield index, chunk
            left -= chunk.result is not None
    finally:
        order.cancel()
        for task in tasks:
            task.cancel()


def _fewer_calls(order: Order[Any], chunk: GuardChunk) -> GuardChunk:
    """Without parallel calls the first alone leaves; it was judged alone as well."""
    result, asked = chunk.result, order.asked
    if result is None or not isinstance(asked, ChatRequest) or asked.parallel_tool_calls is not False:
        return chunk
    return GuardChunk(chunk.text, result.model_copy(update={"tool_calls": result.tool_calls[:1]}))


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
