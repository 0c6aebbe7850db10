"""The HTTP side: a route for whoever has the server's key and the request's own."""

from __future__ import annotations

import logging
import os
import secrets
from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from inferenceguard_vllm.protocol import NO_KEY, PATH, asked, reply

logger = logging.getLogger("vllm.inferenceguard")

MOST_MIB, SECONDS = 256, 60.0


class StatesEndpoint:
    """See ``vllm.plugins.endpoint_plugins.interface.EndpointPlugin``."""

    name = "inferenceguard"
    required_tasks: tuple[str, ...] | None = ("generate",)

    def __init__(self) -> None:
        self._engine: Any = None
        self._keys: list[str] = []
        self._hidden_size, self._reason = 0, "the server is starting"

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.add_api_route(PATH, self.about, methods=["GET"])
        app.add_api_route(PATH, self.states, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Lets the workers begin; without a key they do not."""
        self._keys = [key for key in args.api_key or [os.environ.get("VLLM_API_KEY", "")] if key]
        if not self._keys:
            self._reason = NO_KEY
            return
        most = int(os.environ.get("INFERENCEGUARD_STATES_MIB", MOST_MIB)) * 2**20
        seconds = float(os.environ.get("INFERENCEGUARD_STATES_SECONDS", SECONDS))
        try:
            sizes = await engine_client.collective_rpc("inferenceguard_start_states", args=(most, seconds))
        except Exception:
            logger.exception("the workers cannot keep states")
            self._reason = "the workers cannot keep states; vLLM's log says why"
            return
        self._engine, self._hidden_size, self._reason = engine_client, sizes[0], ""

    async def about(self, request: Request) -> JSONResponse:
        """Whether states are given, and H."""
        return self._refused(request) or JSONResponse({"hidden_size": self._hidden_size})

    async def states(self, request: Request) -> JSONResponse:
        """The states of some requests."""
        if refused := self._refused(request):
            return refused
        try:
            reads = asked(await request.body())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(
            reply(reads, await self._engine.collective_rpc("inferenceguard_read_states", args=(reads,)))
        )

    def _refused(self, request: Request) -> JSONResponse | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = [secrets.compare_digest(given.encode(), key.encode()) for key in self._keys]
        if self._keys and not (scheme.lower() == "bearer" and any(known)):
            return JSONResponse({"error": "no such key"}, status_code=401)
        return JSONResponse({"error": self._reason}, status_code=501) if self._reason else None
