"""What every request passes first: an id, the key, and a line in the access log when it has ended. Never a text."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ig_plugins.server.errors import INVALID, problem, response

HEALTH = "/health"  # answered here, before anything that could make it wait
OPEN = (HEALTH, "/ready", "/ui")  # for machinery that holds no key; and a page that asks for one and holds nothing
Ended = Callable[[str, int, float], None]
Alive = Callable[[], tuple[int, Mapping[str, Any]]]
ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
log = logging.getLogger("inferenceguard.access")


class Entry:
    """ASGI middleware.

    Args:
        app: Gets requests that may come in.
        keys: One of them is needed, as ``Authorization: Bearer KEY``; none are needed where there are none.
        ended: Told of every request's path, status and seconds.
        alive: The status and body of ``/health``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str] = (),
        ended: Ended = lambda path, status, seconds: None,
        alive: Alive = lambda: (200, {"status": "ok"}),
    ) -> None:
        self._app, self._ended, self._alive = app, ended, alive
        self._keys = [_digest(key.encode("utf-8", "surrogateescape")) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.monotonic()
        wanted = headers.get("x-request-id", "")
        request_id = wanted if ID.fullmatch(wanted) else uuid.uuid4().hex
        status, sent = 499, 0  # the client went away before there was an answer

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            sent += len(message.get("body", b""))
            await send(message)

        try:
            if scope["path"] == HEALTH:
                await self._health(scope)(scope, receive, watched)
            elif scope["path"] in OPEN or self._known(headers.get("authorization", "")):
                await self._app(scope, receive, watched)
            else:
                error = problem(INVALID, "an API key is needed, as 'Authorization: Bearer KEY'", code="invalid_api_key")
                await response(401, error, {"www-authenticate": "Bearer", "connection": "close"})(
                    scope, receive, watched
                )
        finally:
            self._ended(scope["path"], status, time.monotonic() - started)
            if log.isEnabledFor(logging.INFO):
                entry = {
                    "time": round(time.time(), 3),
                    "id": request_id,
                    "client": (scope.get("client") or ("", 0))[0],
                    "method": scope["method"],
                    "path": scope["path"][:100],
                    "status": status,
                    "seconds": round(time.monotonic() - started, 4),
                    "bytes": sent,
                }
                log.info(json.dumps(entry))

    def _health(self, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return response(405, problem(INVALID, "Method Not Allowed"), {"allow": "GET, HEAD"})
        status, said = self._alive()
        return JSONResponse(said, status_code=status)

    def _known(self, given: str) -> bool:
        """Compared in constant time, with every key: how long it takes says nothing about any of them."""
        if not self._keys:
            return True
        scheme, _, key = given.partition(" ")
        mine = _digest(key.strip().encode("latin-1"))  # the bytes as they were sent
        matches = [hmac.compare_digest(mine, each) for each in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
