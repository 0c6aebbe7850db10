"""The service: ``/v1/chat/completions``, streaming included, ``/v1/models``, ``/health`` and ``/ready``.

Every answer carries the guard's report as ``inference_guard``, in the last chunk when streaming. A client that goes
away stops its decoding. Reading, templates and tokenising happen once a prompt, on threads beside the event loop.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ig_plugins.errors import InferenceGuardError
from ig_plugins.guard import GuardResult, InferenceGuard
from ig_plugins.guard.request_handle import RequestHandle
from ig_plugins.server.bodies import BodyLimit
from ig_plugins.server.entry import Entry
from ig_plugins.server.errors import described, problem, refusal, response
from ig_plugins.server.gate import Gate, Visit
from ig_plugins.server.limits import Limits, lane_tokens
from ig_plugins.server.memory import budget, estimate
from ig_plugins.server.schema import ChatRequest
from ig_plugins.server.ui import add_ui

LONG = 65_536  # bytes of a body from which on it is read on another thread, so that short ones need not wait for it
HEAVY = 4  # times the lane tokens of a usual answer from which on a request counts as heavy

T = TypeVar("T")


def create_app(
    guard: InferenceGuard, *, limits: Limits | None = None, keys: Sequence[str] = (), ui: bool = False
) -> FastAPI:
    """The service around one guard.

    Args:
        guard: Answers all requests; concurrent ones are decoded in one batch.
        limits: What a request may ask for and what the service takes at once.
        keys: API keys, of which a client needs one; none are needed where there are none.
        ui: Offers ``/ui``, which shows text that did not pass.
    """
    app = FastAPI(title="InferenceGuard", description=__doc__)
    desk = Desk(guard, limits or Limits())
    app.state.gate = desk.gate
    if ui:
        add_ui(app, guard, desk.gate, desk.limits, keyed=bool(keys))
    app.add_middleware(BodyLimit, most=desk.limits.body_bytes, seconds=desk.limits.body_seconds)
    app.add_middleware(Entry, keys=keys)  # added last, so that it is passed first

    @app.exception_handler(InferenceGuardError)
    async def _explain(request: Request, error: InferenceGuardError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(ValidationError)
    async def _invalid(request: Request, error: ValidationError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def _unknown(request: Request, error: HTTPException) -> JSONResponse:
        return response(error.status_code, problem("invalid_request_error", error.detail))

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        gate = desk.gate
        state = {"status": "ending" if gate.closing else "ok", "running": gate.running, "queued": gate.queued}
        return JSONResponse(state, status_code=503 if gate.closing else 200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": guard.policy_id, "object": "model", "owned_by": "inferenceguard"}]}

    schema = {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}, "required": True}

    @app.post("/v1/chat/completions", response_model=None, openapi_extra={"requestBody": schema})
    async def complete(request: Request) -> Response:
        visit = desk.gate.enter()
        try:
            body, ticket = await _unless_gone(request, desk.admitted(visit, await request.body()))
            head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": guard.policy_id}
            if body.stream:
                return _Events(visit, _events(guard, ticket, head))
            result = await _unless_gone(request, _result(guard, ticket))
            done = JSONResponse({**head, "object": "chat.completion", **_completion(result)})
        except BaseException:
            visit.close()
            raise
        visit.close()
        return done

    return app


class Desk:
    """Where a request is read, checked and admitted.

    Args:
        guard: Answers.
        limits: Of the operator.
    """

    def __init__(self, guard: InferenceGuard, limits: Limits) -> None:
        self._guard, self.limits = guard, limits
        memory = limits.memory_bytes or budget(_device(guard))
        self.gate = Gate(running=limits.running, queued=limits.queued, memory=memory)
        self._short, self._long = (ThreadPoolExecutor(1, thread_name_prefix="server-reader") for _ in range(2))
        search = guard.search
        self._usual = lane_tokens(guard.options) * search.max_new_tokens / search.block_tokens

    async def admitted(self, visit: Visit, raw: bytes) -> tuple[ChatRequest, RequestHandle]:
        """A request that is checked and whose turn has come.

        Raises:
            ValidationError: The body is no chat request.
            InferenceGuardError: Something in it is not allowed, or it could not be admitted.
        """
        reader = self._long if len(raw) >= LONG else self._short
        read = asyncio.get_running_loop().run_in_executor(reader, self._read, raw)
        body, ticket, takes, heavy = await read
        visit.abandon = ticket.cancel
        await self.gate.admit(visit, takes=takes, heavy=heavy, deadline=ticket.request.deadline)
        return body, ticket

    def _read(self, raw: bytes) -> tuple[ChatRequest, RequestHandle, int, bool]:
        """On a reader's thread: everything that takes the longer the longer the prompt is."""
        body = ChatRequest.model_validate_json(raw)
        options = body.options(self._guard.options.budgets)
        wanted = self._guard.options.updated(**options)
        options["timeout"] = self.limits.seconds(wanted.timeout)
        self.limits.check(wanted, self._guard.options)
        ticket = self._guard.prepare(body.conversation(), stream=body.stream, **options)
        self.limits.check_prompt(len(ticket.request.prompt_ids))
        work = lane_tokens(wanted) * max(1.0, wanted.search.max_new_tokens / wanted.search.block_tokens)
        return body, ticket, estimate(ticket.request, self._guard.components), work > HEAVY * self._usual


class _Events(StreamingResponse):
    """A stream that leaves the gate however it ends, also when it never began."""

    def __init__(self, visit: Visit, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._visit.abandon()
            self._visit.close()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
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


async def _result(guard: InferenceGuard, ticket: RequestHandle) -> GuardResult:
    async for chunk in guard.follow(ticket):
        if chunk.result is not None:
            return chunk.result
    raise InferenceGuardError("the request ended without a result; please report this as a bug")


async def _events(guard: InferenceGuard, ticket: RequestHandle, head: dict[str, Any]) -> AsyncIterator[str]:
    """Server-sent events: pieces of verified text, the report in the last one."""
    head = {**head, "object": "chat.completion.chunk"}
    try:
        async for chunk in guard.follow(ticket):
            choice: dict[str, Any] = {"index": 0, "delta": {"content": chunk.text}, "finish_reason": None}
            event: dict[str, Any] = {**head, "choices": [choice]}
            if chunk.result is not None:
                choice["finish_reason"] = chunk.result.finish_reason
                if chunk.result.tool_calls:
                    choice["delta"]["tool_calls"] = _tool_calls(chunk.result)
                event |= {"usage": _usage(chunk.result), "inference_guard": chunk.result.report()}
            yield _event(event)
    except InferenceGuardError as error:
        yield _event({"error": described(error)})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _completion(result: GuardResult) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.text}
    if result.blocked:
        message["refusal"] = result.text
    if result.tool_calls:
        message["tool_calls"] = _tool_calls(result)
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": result.finish_reason}],
        "usage": _usage(result),
        "inference_guard": result.report(),
    }


def _tool_calls(result: GuardResult) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
        }
        for index, call in enumerate(result.tool_calls)
    ]


def _usage(result: GuardResult) -> dict[str, int]:
    usage = result.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _device(guard: InferenceGuard) -> Any:
    import torch

    body = getattr(guard.components.policy.tree, "body", None)
    return torch.device("cpu") if body is None else body.device
