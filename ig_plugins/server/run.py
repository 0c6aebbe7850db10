"""Running the service: its socket, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ig_plugins.errors import ConfigurationError
from ig_plugins.server.gate import Gate
from ig_plugins.server.limits import Limits
from ig_plugins.server.protocol import protocol

HEAD_BYTES = 32_768
REPORT = 5.0  # seconds between two words about what is waited for
LAST = 2.0  # seconds for connections to close when all requests have ended
BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; made before weights are loaded, because it may fail.

    Raises:
        ConfigurationError: Nobody can listen there; the message says why.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Accepted sockets inherit it. asyncio sets it only where the protocol is named, and without it the second part
        # of every response waits 40 ms for the client's acknowledgement of the first.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --host or --port"
        ) from error


def serve(app: FastAPI, *, limits: Limits, bound: socket.socket, say: Callable[[str], None]) -> None:
    """Serves until a signal ends it.

    Args:
        app: From `create_app`, with the same limits.
        limits: Of the operator.
        bound: From `listen`.
        say: Told what is waited for while the service ends.
    """
    # A full collection looks at all that torch and transformers have made, 0.3 s during which nobody is answered, and
    # finds nothing there: what is loaded now stays.
    gc.collect()
    gc.freeze()
    server_of(app, limits=limits, say=say).run(sockets=[bound])


def server_of(app: FastAPI, *, limits: Limits, say: Callable[[str], None]) -> uvicorn.Server:
    """The server that `serve` runs; ``should_exit`` ends it as a signal does."""
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(LAST),
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return _Server(config, app.state.gate, limits, say)


class _Server(uvicorn.Server):
    """Ends in order: no new requests, then those under way, as long as the operator gives them."""

    def __init__(self, config: uvicorn.Config, gate: Gate, limits: Limits, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._gate, self._limits, self._say = gate, limits, say

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the service in order, the second at once."""
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for requests under way, says so, and gives them up in the end."""
        self._gate.close()
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        end = time.monotonic() + self._limits.drain_seconds
        told = 0.0
        while (left := end - time.monotonic()) > 0 and (self._gate.running or self._gate.queued):
            if time.monotonic() - told >= REPORT:
                told = time.monotonic()
                self._say(
                    f"ending: waiting for {self._gate.running} running and {self._gate.queued} queued requests, "
                    f"at most {left:.0f} s more; a second signal ends them at once"
                )
            await asyncio.sleep(0.05)
        given_up = self._gate.running + self._gate.queued
        self._gate.abandon()
        if given_up:
            self._say(f"ending: gave up {given_up} requests after {self._limits.drain_seconds:g} s")
        await super().shutdown(sockets)
        self._captured_signals.clear()  # it was heard; the process ends with code 0
