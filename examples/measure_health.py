"""How long ``/health`` takes while forty hostile clients are at work, beside an empty server that does nothing else.

    python examples/measure_health.py --seconds 60 --busy 2

Starts ``inferenceguard serve`` on a miniature, and an asyncio server that only says "ok"; asks both in turn, over a
kept connection and over a new one each time. What both take is the machine's doing, the difference is ours. ``--busy``
adds processes that compute and do nothing else.
"""

import argparse
import asyncio
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import time

PAUSE = 0.02
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ASK = {"messages": [{"role": "user", "content": "How do I clean the kettle?"}]}
LARGEST = {"candidates": 120, "beams": 8, "block_tokens": 32, "max_tokens": 1024}
BODIES = (
    {**ASK, "candidates": 1024, "beams": 1024, "block_tokens": 3900, "max_tokens": 3900},
    {**ASK, **LARGEST},
    {**ASK, **LARGEST, "stream": True},
    {**ASK, "max_tokens": 16},
    {**ASK, "max_tokens": 16, "stream": True, "n": 8},
    {"messages": [{"role": "user", "content": "word " * 150_000}]},
    {"messages": [{"role": "user", "content": "a"}] * 20_000},
    {"messages": [{"role": "user", "content": "\U0001f600" * 60_000}]},
    {**ASK, "tools": [{"type": "function", "function": {"name": f"f{number}"}} for number in range(15_000)]},
    {**ASK, "logit_bias": {str(token): -100 for token in range(50_000)}},
    {**ASK, "schedule": [1] * 100_000},
    {**ASK, "x" * 500_000: 1},
)
TEXTS = (
    *(json.dumps(body).encode() for body in BODIES),
    b"[" * 900_000,
    b'{"messages": ' + b'{"a":' * 100_000,
    b'{"messages": "' + b"x" * 2**20 + b'"}',
)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
RAW = (
    b"POST /v1",
    HEAD % 10 + b"{",
    b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 4_000,
    b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 300,
    b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 20,
    b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 5,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
)


async def empty() -> None:
    """The server that does nothing else: prints its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(EMPTY)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def hostile(port: int, number: int) -> None:
    """One client of the forty; never ends."""
    luck = random.Random(number)
    while True:
        sent = luck.choice(RAW) if number % 4 == 0 else b""
        if not sent:
            body = luck.choice(TEXTS)
            sent = HEAD % len(body) + body
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            # Some go away at once, some do not read, the others wait for the answer.
            await asyncio.wait_for(reader.read(2**20 if luck.random() < 0.7 else 0), luck.choice((0.1, 2, 20)))
            writer.close()
        except (OSError, asyncio.TimeoutError, TimeoutError):
            writer.transport.abort()
        await asyncio.sleep(luck.random() * 0.2)


async def forty(port: int) -> None:
    await asyncio.gather(*(hostile(port, number) for number in range(40)))


class Asker:
    """Asks one server for its health."""

    def __init__(self, name: str, port: int, *, kept: bool) -> None:
        self.name, self._port, self._kept = name, port, kept
        self._open: socket.socket | None = None
        self.took: list[float] = []

    def ask(self) -> None:
        """One question, timed."""
        started = time.perf_counter()
        connection, self._open = self._open or socket.create_connection(("127.0.0.1", self._port), timeout=30), None
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        heard = b""
        while not heard.endswith((b"ok", b"}")):
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionError(f"{self.name} closed the connection after {heard!r}")
            heard += piece
        self.took.append(time.perf_counter() - started)
        if self._kept:
            self._open = connection
        else:
            connection.close()

    def line(self) -> str:
        """What it took, in milliseconds."""
        took = sorted(1000 * each for each in self.took)
        within = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999}
        told = "  ".join(f"{name} {took[int(share * len(took))]:6.1f}" for name, share in within.items())
        late = sum(each > 100 for each in took)
        return f"{self.name:30} {len(took):6}  {told}  longest {took[-1]:6.1f} ms  over 100 ms: {late}"


def start(*what: str) -> subprocess.Popen:
    """A process of its own session, so that Linux gives each its share of the machine."""
    return subprocess.Popen([sys.executable, *what], stdout=subprocess.PIPE, text=True, start_new_session=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help="of a server that runs already")
    given = parser.parse_args()
    if given.part == "empty":
        asyncio.run(empty())
    elif given.part == "hostile":
        asyncio.run(forty(given.port))
    elif given.part == "busy":
        for _ in itertools.count():
            pass
    else:
        measure(given.seconds, given.busy, given.port)


def measure(seconds: float, busy: int, port: int | None) -> None:
    children = [start(__file__, "--part", "empty")]
    beside = int(children[0].stdout.readline())
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        run = "from ig_plugins.cli import main; main()"
        children.append(start("-c", run, "serve", "--model", "tiny-beaver", "--port", str(port)))
    try:
        for _ in range(600):
            try:
                Asker("first", port, kept=False).ask()
                break
            except (OSError, ConnectionError):
                time.sleep(0.1)
        children += [start(__file__, "--part", "busy") for _ in range(busy)]
        children.append(start(__file__, "--part", "hostile", "--port", str(port)))
        time.sleep(3)
        askers = [
            Asker(f"{name}, {'kept' if kept else 'new'} connection", each, kept=kept)
            for kept in (True, False)
            for name, each in (("/health", port), ("empty server", beside))
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for each in askers:
                each.ask()
                time.sleep(PAUSE)
        print("\n".join(each.line() for each in askers))
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGKILL)
            child.wait()


if __name__ == "__main__":
    main()
