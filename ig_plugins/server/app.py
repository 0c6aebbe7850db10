"""The service: ``/v1/chat/completions``, streaming included, ``/v1/models`` and ``/health``.

Every answer carries the guard's report as ``inference_guard``, in the last chunk when streaming. A client that goes
away stops its decoding.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from ig_plugins.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InferenceGuardError,
    JudgeTimeoutError,
    NotEnoughMemoryError,
    PromptError,
)
from ig_plugins.guard import GuardResult, InferenceGuard
from ig_plugins.server.schema import ChatRequest


def create_app(guard: InferenceGuard) -> FastAPI:
    """The service around one guard.

    Args:
        guard: Answers all requests; concurrent ones are decoded in one batch.
    """
    app = FastAPI(title="InferenceGuard", description=__doc__)

    @app.exception_handler(InferenceGuardError)
    async def _explain(request: Request, error: InferenceGuardError) -> JSONResponse:
        return JSONResponse({"error": _error(error)}, status_code=_status(error))

    @app.exception_handler(RequestValidationError)
    async def _explain_body(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the values: FastAPI would fail to write a NaN back, and they may be texts of the conversation.
        told = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
        return JSONResponse({"detail": told}, status_code=422)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": guard.policy_id, "object": "model", "owned_by": "inferenceguard"}]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(body: ChatRequest) -> dict[str, Any] | StreamingResponse:
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": guard.policy_id}
        options = body.options(guard.options.budgets)
        if body.stream:
            guard.request(body.conversation(), **options)  # bad input fails before the stream begins
            return StreamingResponse(_events(guard, body, options, head), media_type="text/event-stream")
        result = await guard.agenerate(body.conversation(), **options)
        return {**head, "object": "chat.completion", **_completion(result)}

    return app


async def _events(
    guard: InferenceGuard, body: ChatRequest, options: dict[str, Any], head: dict[str, Any]
) -> AsyncIterator[str]:
    """Server-sent events: pieces of verified text, the report in the last one."""
    head = {**head, "object": "chat.completion.chunk"}
    try:
        async for chunk in guard.astream(body.conversation(), **options):
            choice: dict[str, Any] = {"index": 0, "delta": {"content": chunk.text}, "finish_reason": None}
            event: dict[str, Any] = {**head, "choices": [choice]}
            if chunk.result is not None:
                choice["finish_reason"] = chunk.result.finish_reason
                if chunk.result.tool_calls:
                    choice["delta"]["tool_calls"] = _tool_calls(chunk.result)
                event |= {"usage": _usage(chunk.result), "inference_guard": chunk.result.report()}
            yield _event(event)
    except InferenceGuardError as error:
        yield _event({"error": _error(error)})
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


def _status(error: InferenceGuardError) -> int:
    if isinstance(error, PromptError | ConfigurationError):
        return 400
    if isinstance(error, NotEnoughMemoryError):
        return 503
    return 504 if isinstance(error, DeadlineExceededError | JudgeTimeoutError) else 500


def _error(error: InferenceGuardError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}
