"""The link to the process that accepts connections (`acceptor_process`): beats go out, connections come in."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from ig_plugins.server import acceptor_process
from ig_plugins.server.acceptor_process import BEAT
from ig_plugins.server.limits import Limits

EVERY = 0.5  # seconds between beats
AT_ONCE = 32  # connections taken before the loop does something else
GRACE = 60.0  # seconds past the timeout of every request after which a block that goes on is stuck
LAST = 2.0  # seconds for the process to end


def longest_block(limits: Limits) -> float:
    """Seconds after which a block counts as stuck: no request that it belongs to is still waited for."""
    return limits.timeout + GRACE


class Link:
    """The event loop's side. Used on its thread only.

    Args:
        taken: Gets each connection.
        lost: Told when the process has ended by itself.
        block: Seconds that the block under way has taken.
    """

    def __init__(
        self, *, taken: Callable[[socket.socket], None], lost: Callable[[], None], block: Callable[[], float]
    ) -> None:
        self._taken, self._lost, self._block = taken, lost, block
        self._process: subprocess.Popen[bytes] | None = None
        self._mine: socket.socket | None = None
        self._ending: asyncio.Event | None = None

    def start(self, bound: socket.socket, limits: Limits) -> bool:
        """Starts the process; False where that cannot be done.

        Args:
            bound: The port, which both share.
            limits: Of the operator.
        """
        loop = asyncio.get_running_loop()
        if not hasattr(socket, "send_fds") or not sys.executable:
            return False
        self._mine, theirs = socket.socketpair()
        figures = (limits.connections, limits.head_seconds, longest_block(limits))
        handed = (bound.fileno(), theirs.fileno())
        try:
            self._mine.setblocking(False)
            loop.add_reader(self._mine, self._take)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", acceptor_process.__file__, *map(str, (*handed, *figures))],
                pass_fds=handed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,  # Linux shares cores among sessions first: its share is not ours
            )  # fmt: skip
        except (OSError, NotImplementedError):  # no memory for it, or an event loop without readers
            self._mine.close()
            return False
        finally:
            theirs.close()
        self._beat(loop)
        return True

    async def close(self) -> None:
        """No connection is accepted any more; those on their way are taken first."""
        if self._mine is None or self._process is None or self._ending is not None:
            return
        self._ending = asyncio.Event()
        with suppress(OSError):
            self._mine.shutdown(socket.SHUT_WR)
        with suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._ending.wait(), LAST)
        self._end()

    def _end(self) -> None:
        if self._mine is None or self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._mine)
        self._mine.close()
        self._mine = None
        try:
            self._process.wait(LAST)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._mine is None or self._ending is not None:
            return
        with suppress(OSError):  # it is full while the process gets no core, and ended when there is none
            self._mine.send(BEAT.pack(self._block()))
        loop.call_later(EVERY, self._beat, loop)

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            if self._mine is None:
                return
            try:
                came, descriptors, *_ = socket.recv_fds(self._mine, 1, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
            except BlockingIOError:
                return
            except OSError:
                came, descriptors = b"", []
            for each in descriptors:
                self._taken(socket.socket(fileno=each))
            if came:
                continue
            if self._ending is not None:
                self._ending.set()
                asyncio.get_running_loop().remove_reader(self._mine)
            else:
                self._end()
                self._lost()
            return
