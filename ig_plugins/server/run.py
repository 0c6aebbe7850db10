"""Running the service: its socket, who accepts connections, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from ig_plugins.errors import ConfigurationError
from ig_plugins.runtime.worker import worker
from ig_plugins.server.acceptor import Link
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
    server_of(app, limits=limits, say=say, own_acceptor=True).run(sockets=[bound])


def server_of(
    app: FastAPI, *, limits: Limits, say: Callable[[str], None], own_acceptor: bool = False
) -> uvicorn.Server:
    """The server that `serve` runs; ``should_exit`` ends it as a signal does.

    Args:
        app: From `create_app`, with the same limits.
        limits: Of the operator.
        say: Told what is waited for while the service ends.
        own_acceptor: A process of its own accepts connections and answers ``/health``, where that is possible.
    """
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # a warning for each malformed request would let anybody fill the log
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(LAST),
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return _Server(config, app.state.gate, limits, say, own_acceptor)


class _Server(uvicorn.Server):
    """Ends in order: no new requests, then those under way, as long as the operator gives them."""

    def __init__(
        self, config: uvicorn.Config, gate: Gate, limits: Limits, say: Callable[[str], None], own_acceptor: bool
    ) -> None:
        super().__init__(config)
        self._gate, self._limits, self._say, self._own_acceptor = gate, limits, say, own_acceptor
        self._link: Link | None = None
        self._taking: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets a process of its own accept connections; where there can be none, and once it is lost, we do."""
        if not self._own_acceptor or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        self._link = Link(taken=self._take, lost=lambda: self._lost(sockets), block=worker().block_seconds)
        if not self._link.start(sockets[0], self._limits):
            await self._accept(sockets)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._under_way(asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection))

    def _lost(self, sockets: list[socket.socket]) -> None:
        if not self.should_exit:
            self._say("the process that accepts connections has ended; /health is answered with everything else now")
            self._under_way(self._accept(sockets))

    async def _accept(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        self.servers += [await loop.create_server(self._protocol, sock=each, backlog=BACKLOG) for each in sockets]

    def _under_way(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    def _protocol(self) -> asyncio.Protocol:
        make = self.config.http_protocol_class
        made: asyncio.Protocol = make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[call-arg]
        return made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the service in order, the second at once."""
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for requests under way, says so, and gives them up in the end."""
        self._gate.close()
        if self._link is not None:
            await self._link.close()
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
