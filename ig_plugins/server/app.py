"""The service: OpenAI's chat and text endpoints over guards, ``/v1/models``, ``/tokenize``, ``/health`` and ``/ready``.

Every answer carries the guard's report as ``inference_guard``, in the last chunk when streaming. A client that goes
away stops its decoding.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from ig_plugins.errors import ConfigurationError, InferenceGuardError
from ig_plugins.guard import InferenceGuard
from ig_plugins.observing import watch
from ig_plugins.runtime.worker import worker
from ig_plugins.server.acceptor import longest_block
from ig_plugins.server.acceptor_process import verdict
from ig_plugins.server.answering import Events, events, results, unless_gone
from ig_plugins.server.bodies import BodyLimit
from ig_plugins.server.desk import A, Desk
from ig_plugins.server.entry import Entry
from ig_plugins.server.errors import INVALID, problem, refusal, response
from ig_plugins.server.forms import SHOWN, ChatForm, Form, headers
from ig_plugins.server.limits import Limits
from ig_plugins.server.responses import ResponseForm, ResponseRequest
from ig_plugins.server.schema import ChatRequest, CompletionRequest, TokenizeRequest
from ig_plugins.server.served import Models, name_of
from ig_plugins.server.ui import add_ui

if TYPE_CHECKING:
    from ig_plugins.server.metrics import Metrics

PATHS = (
    "/health", "/ready", "/metrics", "/tokenize", "/v1/models", "/v1/chat/completions", "/v1/completions",
    "/v1/responses",
)  # fmt: skip
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"description": words}
    for status, words in {
        400: "Something in it is not allowed; the message names it.",
        401: "An API key is needed.",
        404: "The model is not served.",
        408: "The body did not arrive in time.",
        413: "The body is too long.",
        429: "There is no room now; see Retry-After.",
        500: "A judge or decoding failed; no text leaves.",
        503: "Too little memory, or the service is ending.",
        504: "The time ran out.",
    }.items()
}


def create_app(
    guard: InferenceGuard | Mapping[str, InferenceGuard],
    *,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    cors: Sequence[str] = (),
    metrics: bool | None = None,
    telemetry: bool = False,
    completions: bool = True,
    ui: bool = False,
) -> FastAPI:
    """The service around one guard, or several by name.

    Args:
        guard: Answers all requests; concurrent ones are decoded in one batch. Of several, a request's ``model`` says
            which, and the first is asked where it says nothing.
        limits: What a request may ask for and what the service takes at once.
        keys: API keys, of which a client needs one; none are needed where there are none.
        aliases: Other names of the guards.
        cors: Origins of web pages that may ask; ``*`` for all.
        metrics: ``/metrics`` for Prometheus; by default where prometheus-client is installed.
        telemetry: OpenTelemetry spans of requests; those of guards begin with `ig_plugins.telemetry.start`.
        completions: ``/v1/completions``, which takes texts that no prompt format has rendered.
        ui: ``/ui`` for operators, which shows text that did not pass.

    Raises:
        ConfigurationError: Metrics or telemetry are asked for, and their packages are missing.
    """
    # Its pages about itself would load scripts from elsewhere; /openapi.json is there.
    app = FastAPI(title="InferenceGuard", description=__doc__, docs_url=None, redoc_url=None)
    models = Models(guard if isinstance(guard, Mapping) else {name_of(guard.policy_id): guard}, aliases=aliases)
    desk = Desk(models, limits or Limits())
    app.state.gate, app.state.models = desk.gate, models
    _explain_errors(app)
    _answer_about_itself(app, desk)
    told = _measured(app, desk, metrics)

    @app.post("/v1/chat/completions", **_takes(ChatRequest))
    async def chat(request: Request) -> Response:
        return await _answered(request, desk, ChatRequest, ChatForm, told)

    @app.post("/v1/responses", **_takes(ResponseRequest))
    async def respond(request: Request) -> Response:
        return await _answered(request, desk, ResponseRequest, ResponseForm, told)

    if completions:

        @app.post("/v1/completions", **_takes(CompletionRequest))
        async def complete(request: Request) -> Response:
            return await _answered(request, desk, CompletionRequest, Form, told)

    if ui:
        add_ui(app, desk, keyed=bool(keys))
    # What is added last is passed first.
    app.add_middleware(BodyLimit, most=desk.limits.body_bytes, seconds=desk.limits.body_seconds)
    alive = partial(_alive, desk.limits)
    app.add_middleware(Entry, keys=keys, alive=alive, **({"ended": told.requested} if told else {}))
    if telemetry:
        from ig_plugins.server.tracing import Traced
        from ig_plugins.telemetry import tracer

        app.add_middleware(Traced, tracer=tracer())
    if cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *SHOWN],
        )  # fmt: skip
    return app


def _measured(app: FastAPI, desk: Desk, wanted: bool | None) -> Metrics | None:
    """``/metrics``, unless it is not wanted."""
    if wanted is False or (wanted is None and find_spec("prometheus_client") is None):
        return None
    try:
        from ig_plugins.server.metrics import CONTENT_TYPE, Metrics
    except ImportError as error:
        raise ConfigurationError("prometheus-client is missing; pip install 'inferenceguard[metrics]'") from error
    metrics = Metrics(desk.gate, paths=PATHS)
    weakref.finalize(app, watch(metrics.observer))

    @app.get("/metrics", responses=FAILURES, response_class=PlainTextResponse)
    async def measured() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return metrics


async def _answered(request: Request, desk: Desk, kind: type[A], form_of: type[Form], told: Metrics | None) -> Response:
    visit = desk.gate.enter()
    try:
        order = await unless_gone(request, desk.admitted(visit, await request.body(), kind))
        form = form_of(order.served)
        if order.asked.streams:
            return Events(visit, events(order, form, told))
        found = await unless_gone(request, results(order, told))
        done = JSONResponse(form.whole(found, order.prompts), headers=headers(found))
    except BaseException:
        visit.abandon()
        visit.close()
        raise
    visit.close()
    return done


def _answer_about_itself(app: FastAPI, desk: Desk) -> None:
    @app.get("/health", responses={503: {"description": "Decoding is stuck."}})
    async def health() -> JSONResponse:  # answered by `Entry`, or before by the process that accepts connections
        status, said = _alive(desk.limits)
        return JSONResponse(said, status_code=status)

    @app.get("/ready", responses={503: {"description": "The service is ending."}})
    async def ready() -> JSONResponse:
        gate = desk.gate
        state = {"status": "ending" if gate.closing else "ok", "running": gate.running, "queued": gate.queued}
        return JSONResponse(state, status_code=503 if gate.closing else 200)

    @app.get("/v1/models", responses=FAILURES)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": desk.models.listed()}

    @app.get("/v1/models/{name:path}", responses=FAILURES)
    async def model(name: str) -> dict[str, Any]:
        return desk.models.described(desk.models.find(name))

    @app.post("/tokenize", **_takes(TokenizeRequest))
    async def tokenize(request: Request) -> dict[str, Any]:
        return await desk.tokenized(await request.body())


def _alive(limits: Limits) -> tuple[int, Mapping[str, str | float]]:
    """What ``/health`` says where the event loop answers it, which then is not silent."""
    return verdict(silent=0.0, block=worker().block_seconds(), longest=longest_block(limits))


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What the API's description says of an endpoint. Bodies are read by ourselves, beside the event loop."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    body = {"content": {"application/json": {"schema": schema}}, "required": True}
    return {"response_model": None, "openapi_extra": {"requestBody": body}, "responses": FAILURES}


def _explain_errors(app: FastAPI) -> None:
    fields = {
        "/v1/chat/completions": ChatRequest.model_fields,
        "/v1/completions": CompletionRequest.model_fields,
        "/v1/responses": ResponseRequest.model_fields,
        "/tokenize": TokenizeRequest.model_fields,
    }

    @app.exception_handler(InferenceGuardError)
    async def _explain(request: Request, error: InferenceGuardError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(ValidationError)
    async def _invalid(request: Request, error: ValidationError) -> JSONResponse:
        return refusal(error, fields=fields.get(request.url.path, ()))

    @app.exception_handler(HTTPException)
    async def _unknown(request: Request, error: HTTPException) -> JSONResponse:
        return response(error.status_code, problem(INVALID, error.detail), dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)
