"""A server of raw bytes on a local port: what no library for servers would send."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable


class RawServer:
    """Answers every request with the bytes that ``reply`` makes of its number and head.

    Args:
        reply: (number of the request from 1 on, its head) to what is sent, part by part.
    """

    def __init__(self, reply: Callable[[int, bytes], Iterable[bytes]]) -> None:
        self.reply, self.heads, self.connections = reply, [], 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "RawServer":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        seen = b""
        with contextlib.suppress(OSError), connection:
            while True:
                while b"\r\n\r\n" not in seen:
                    if not (part := connection.recv(65536)):
                        return
                    seen += part
                head, _, seen = seen.partition(b"\r\n\r\n")
                lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-l")]
                length = int(lengths[0]) if lengths else 0
                while len(seen) < length:
                    seen += connection.recv(65536)
                seen = seen[length:]
                self.heads.append(head)
                for part in self.reply(len(self.heads), head):
                    connection.sendall(part)


def http(content: object, *headers: str, status: str = "200 OK") -> bytes:
    """A whole reply: bytes as they are, or JSON."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(raw)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + raw
