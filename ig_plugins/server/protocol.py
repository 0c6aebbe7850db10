"""Connections that cannot be held without use: half-sent heads, clients that do not read, and too many at once."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ig_plugins.server.limits import Limits

GONE = 1.0  # seconds between looks whether a client is still there that nothing is read from
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def protocol(limits: Limits) -> type[H11Protocol]:
    """The HTTP protocol of uvicorn with these limits."""

    class Limited(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _look: asyncio.TimerHandle | None = None
        _since = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._since = self.loop.time()
            if len(self.connections) > limits.connections and not self._made_room():
                transport.write(FULL)
                transport.close()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                super().data_received(data)
                self._watch()
                self._look_out()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._since = self.loop.time()
            self._look_out()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._give(limits.send_seconds)  # closing waits for what is still to be sent

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._late, self._stuck, self._look):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._give(limits.send_seconds)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

        @property
        def _idle(self) -> bool:
            """Whether no whole head of a request has arrived that is not answered yet."""
            return self.cycle is None or self.cycle.response_complete

        def _watch(self) -> None:
            """Runs a clock while a head is awaited, for the first bytes of it and for the rest."""
            if not self._idle and self._late is not None:
                self._late.cancel()
                self._late = None
            elif self._idle and self._late is None:
                self._late = self.loop.call_later(limits.head_seconds, self._too_late)

        def _too_late(self) -> None:
            self._late = None
            if self._idle:
                self.transport.abort()

        def _look_out(self) -> None:
            """Looks for the client's end now and then while nothing is read: it has sent a next request already."""
            if self.flow.read_paused and not self._idle and self._look is None:
                self._look = self.loop.call_later(GONE, self._see)

        def _see(self) -> None:
            self._look = None
            if not self.transport.is_closing() and _gone(self.transport):
                self.transport.abort()
            else:
                self._look_out()

        def _give(self, seconds: float) -> None:
            if self._stuck is None:
                self._stuck = self.loop.call_later(seconds, self.transport.abort)

        @property
        def _unsent(self) -> bool:
            """Whether the rest of a body is awaited."""
            return not self._idle and self.cycle.more_body

        def _made_room(self) -> bool:
            """Closes the connection that has been idle longest, or whose body has been awaited longest."""
            others: list[Any] = [each for each in self.connections if each is not self]
            open_ = [each for each in others if not each.transport.is_closing()]
            waiting = [each for each in open_ if each._idle] or [each for each in open_ if each._unsent]
            if not waiting:
                return False
            min(waiting, key=lambda each: each._since).transport.abort()
            return True

    return Limited


def _gone(transport: asyncio.Transport) -> bool:
    """Whether the other side has closed a connection, whatever it sent before."""
    if not hasattr(select, "poll"):
        return False
    look = select.poll()
    look.register(transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(look.poll(0))
