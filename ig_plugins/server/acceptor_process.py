"""A small process that accepts connections, answers ``/health`` itself, and hands every other connection on.

It is run as a script, with the standard library alone (see `acceptor`). The process that decodes shares one interpreter
lock among its threads, and its event loop answers late when a thread holds it and has no core; this process has
nothing else to do. It tells the truth all the same: the other process says twice a second that its event loop runs, and
how long the block under way has taken.

A connection is looked at without taking anything off it, so that whoever gets it reads all of it.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress

BEAT = struct.Struct("!d")
SILENT = 10.0  # seconds without a word of the event loop from which on the service counts as dead
LONGEST = 2048  # bytes of a request for /health that is answered here
NAMED = {b"GET /health HTTP/1.1": True, b"HEAD /health HTTP/1.1": False}  # and whether the answer has a body
PLAIN = {
    b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"pragma",
    b"connection", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip",
}  # fmt: skip
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def verdict(*, silent: float, block: float, longest: float) -> tuple[int, dict[str, str | float]]:
    """What ``/health`` says, as status and body.

    Args:
        silent: Seconds since the event loop was last heard of.
        block: Seconds that the block under way has taken.
        longest: How many it may take; by then every request that it could belong to has run out of time.
    """
    if silent > SILENT:
        return 503, {"status": "the event loop is silent", "seconds": round(silent, 1)}
    if block > longest:
        return 503, {"status": "decoding is stuck", "seconds": round(block, 1)}
    return 200, {"status": "ok"}


def asked(seen: bytes) -> tuple[int, bool, bool] | None:
    """A request for ``/health`` that has arrived whole and holds nothing unusual.

    Returns:
        Its length, whether the answer has a body, and whether the connection stays open; None for everything else.
    """
    head, end, _ = seen.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    if not end or first not in NAMED:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name.lower() not in PLAIN:
            return None
        headers[name.lower()] = value.strip().lower()
    kept = headers.get(b"connection", b"keep-alive")
    if b"host" not in headers or kept not in (b"keep-alive", b"close"):
        return None
    return len(head) + 4, NAMED[first], kept == b"keep-alive"


class Acceptor:
    """Accepts until the other process goes away.

    Args:
        listener: The port.
        link: To the other process: its beats come in, connections go out.
        connections: How many may say nothing here; the one that has been silent longest makes room. As many may wait to
            be handed on; more are told to come back.
        seconds: For a connection to say something.
        longest: See `verdict`.
    """

    def __init__(
        self, listener: socket.socket, link: socket.socket, *, connections: int, seconds: float, longest: float
    ) -> None:
        self._listener, self._link = listener, link
        self._connections, self._seconds, self._longest = connections, seconds, longest
        self._silent: dict[socket.socket, float] = {}  # by when they were last heard of, the earliest first
        self._leaving: deque[socket.socket] = deque()
        self._selector = selectors.DefaultSelector()
        self._heard, self._block, self._rest = time.monotonic(), 0.0, b""
        for each in (listener, link):
            each.setblocking(False)
            self._selector.register(each, selectors.EVENT_READ)

    def run(self) -> None:
        """Until the link ends."""
        open_ = True
        while open_:
            for key, events in self._selector.select(timeout=1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._link:
                    if events & selectors.EVENT_WRITE:
                        self._hand_on()
                    if events & selectors.EVENT_READ:
                        open_ = self._hear()
                elif key.fileobj in self._silent:  # none that another event of this round has closed
                    self._look(key.fileobj)
            self._forget(before=time.monotonic() - self._seconds)
        self._listener.close()
        self._link.setblocking(True)
        self._link.settimeout(1.0)
        self._hand_on()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is left, or the client has gone already
            if not self._make_room():
                time.sleep(0.05)
            return
        connection.setblocking(False)
        if len(self._silent) >= self._connections:
            self._make_room()
        self._silent[connection] = time.monotonic()
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self) -> bool:
        """The latest of the beats; False when there will be no more."""
        try:
            came = self._link.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            return False
        beats = self._rest + came
        whole = len(beats) - len(beats) % BEAT.size
        if whole:
            self._heard, (self._block,) = time.monotonic(), BEAT.unpack_from(beats, whole - BEAT.size)
        self._rest = beats[whole:]
        return bool(came)

    def _look(self, connection: socket.socket) -> None:
        """Answers, or hands on."""
        try:
            seen = connection.recv(LONGEST, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            seen = b""
        if not seen:
            self._close(connection)
            return
        found = asked(seen)
        if found is None and len(self._leaving) >= self._connections:
            with suppress(OSError):
                connection.send(FULL)
            self._close(connection)
            return
        if found is None:
            self._release(connection)
            self._leaving.append(connection)
            self._hand_on()
            return
        length, body, kept = found
        try:
            connection.recv(length)
            connection.send(self._answer(body=body, kept=kept))
        except OSError:
            kept = False
        if kept:
            del self._silent[connection]
            self._silent[connection] = time.monotonic()  # the last of them now
        else:
            self._close(connection)

    def _answer(self, *, body: bool, kept: bool) -> bytes:
        status, said = verdict(silent=time.monotonic() - self._heard, block=self._block, longest=self._longest)
        text = json.dumps(said, separators=(",", ":")).encode()
        reason = "OK" if status == 200 else "Service Unavailable"
        end = "" if kept else "connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n{end}\r\n"
        )
        return head.encode() + (text if body else b"")

    def _hand_on(self) -> None:
        """Sends connections over the link, as many as it takes now; the others when it can be written to."""
        full = False
        while self._leaving and not full:
            connection = self._leaving[0]
            try:
                socket.send_fds(self._link, [b"."], [connection.fileno()])
            except BlockingIOError:
                full = True
                continue
            except OSError:
                pass  # too many are on their way, or nobody is there: this one is given up
            self._leaving.popleft().close()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if full else 0)
        self._selector.modify(self._link, events)

    def _forget(self, *, before: float) -> None:
        """Closes connections that have been silent too long."""
        while self._silent and next(iter(self._silent.values())) < before:
            self._make_room()

    def _make_room(self) -> bool:
        if not self._silent:
            return False
        self._close(next(iter(self._silent)))
        return True

    def _release(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._silent[connection]

    def _close(self, connection: socket.socket) -> None:
        self._release(connection)
        connection.close()


def main() -> None:
    """The arguments are two descriptors and the figures of `Acceptor`."""
    for each in (signal.SIGINT, signal.SIGTERM):  # the link says when it is over
        signal.signal(each, signal.SIG_IGN)
    listener, link = (socket.socket(fileno=int(each)) for each in sys.argv[1:3])
    connections, seconds, longest = int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])
    Acceptor(listener, link, connections=connections, seconds=seconds, longest=longest).run()


if __name__ == "__main__":
    main()
