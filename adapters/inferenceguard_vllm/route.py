"""The HTTP side: ``/v1/inferenceguard/states``, for whoever has the server's key and the request's own."""

from __future__ import annotations

import json
import logging
import os
import secrets
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from inferenceguard_vllm.worker import Reads

logger = logging.getLogger("vllm.inferenceguard")

PATH = "/v1/inferenceguard/states"
MOST_MIB, SECONDS = 256, 60.0
MOST_READS = 4096
NO_KEY = "hidden states are given only by a server with a key: start vLLM with --api-key"


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


def asked(body: bytes) -> Reads:
    """What a request reads: ``{"reads": [{"key": K, "lengths": [16, 9]}]}``.

    Raises:
        ValueError: It is no such document.
    """
    try:
        reads = [(each["key"], each["lengths"]) for each in json.loads(body)["reads"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError('the body must be {"reads": [{"key": K, "lengths": [16, 9]}]}') from None
    whole = all(isinstance(lengths, list) and all(type(n) is int and n > 0 for n in lengths) for _, lengths in reads)
    if not whole or not all(isinstance(key, str) for key, _ in reads):
        raise ValueError("a key must be a text, and lengths whole numbers above 0")
    if sum(len(lengths) for _, lengths in reads) > MOST_READS:
        raise ValueError(f"at most {MOST_READS} lanes can be read at once")
    return reads


def reply(reads: Reads, found: Sequence[Sequence[list[dict[str, Any]] | None]]) -> dict[str, Any]:
    """The document for what the workers have; of several that have the same, the first.

    Args:
        reads: What was asked for.
        found: By worker and read.
    """
    lanes = [next((each for each in by_worker if each is not None), None) for by_worker in zip(*found, strict=True)]
    return {"reads": [{"key": key, "lanes": mine} for (key, _), mine in zip(reads, lanes, strict=True)]}
