"""Bodies are read whole before anything else happens: not too long, not too slowly, not too many at once."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ig_plugins.server.errors import problem, response

AT_ONCE = 32  # longest bodies that may be in memory together


class BodyLimit:
    """ASGI middleware.

    Args:
        app: Gets each body in one piece.
        most: Bytes of a body.
        seconds: For a body to arrive.
    """

    def __init__(self, app: ASGIApp, *, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most, seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            refused = (
                _two_lengths(scope)
                or self._announced(scope)
                or await asyncio.wait_for(self._read(receive, body), self._seconds)
            )
        except (asyncio.TimeoutError, TimeoutError):
            refused = 408, f"the body did not arrive within {self._seconds:g} s (its limit body_seconds)"
        except ClientDisconnect:
            return
        finally:
            self._held -= len(body)
        if refused:
            status, message = refused
            headers = {"connection": "close", **({"retry-after": "1"} if status == 429 else {})}
            await response(status, problem("invalid_request_error", message), headers)(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replayed, send)

    def _announced(self, scope: Scope) -> tuple[int, str] | None:
        """Whether a body is too long by its own word: refused before a byte of it is read."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._most:
                return self._too_long()
        return None

    async def _read(self, receive: Receive, body: bytearray) -> tuple[int, str] | None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece = message.get("body", b"")
            body += piece
            self._held += len(piece)
            if len(body) > self._most:
                return self._too_long()
            if self._held > AT_ONCE * self._most:
                return 429, "too many bodies are being read at once; try again later"
            if not message.get("more_body"):
                return None

    def _too_long(self) -> tuple[int, str]:
        return 413, f"the body is longer than the {self._most} bytes that this server allows (its limit body_bytes)"


def _two_lengths(scope: Scope) -> tuple[int, str] | None:
    """Whether a body is said to end in two ways. A proxy that believes the other one sees another request behind it."""
    named = {name for name, _ in scope["headers"]}
    if {b"content-length", b"transfer-encoding"} <= named:
        return 400, "the request has content-length and transfer-encoding; give one of them"
    return None


def _has_body(scope: Scope) -> bool:
    """By HTTP/1.1 a request has a body only if its head says so."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
