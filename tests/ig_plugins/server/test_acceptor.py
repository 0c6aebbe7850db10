"""The process that accepts connections: what it answers itself, what it hands on, and how both ends part."""

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from ig_plugins.runtime import worker
from ig_plugins.server import Limits, acceptor_process, create_app
from ig_plugins.server.acceptor import longest_block
from ig_plugins.server.acceptor_process import BEAT, Acceptor, asked, verdict
from tests.ig_plugins.server.running import Server
from tests.kit.guards import make_guard

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
OTHER = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (HEALTH, (len(HEALTH), True, True)),
        (HEALTH + OTHER, (len(HEALTH), True, True)),
        (HEALTH.replace(b"GET", b"HEAD"), (len(HEALTH) + 1, False, True)),
        (HEALTH[:-2] + b"Connection: Close\r\n\r\n", (len(HEALTH) + 19, True, False)),
        (HEALTH[:-2] + b"X-Forwarded-For: 10.0.0.1\r\n\r\n", (len(HEALTH) + 27, True, True)),
        (HEALTH[:-1], None),
        (OTHER, None),
        (b"", None),
        (HEALTH.replace(b"/health", b"/health?x=1"), None),
        (HEALTH.replace(b"/health", b"/healthy"), None),
        (HEALTH.replace(b"1.1", b"1.0"), None),
        (HEALTH.replace(b"GET", b"POST"), None),
        (HEALTH.replace(b"host: x\r\n", b""), None),
        (HEALTH[:-2] + b"x-request-id: mine\r\n\r\n", None),
        (HEALTH[:-2] + b"origin: https://a.page\r\n\r\n", None),
        (HEALTH[:-2] + b"content-length: 5\r\n\r\nabcde", None),
        (HEALTH[:-2] + b"transfer-encoding: chunked\r\n\r\n", None),
        (HEALTH[:-2] + b"connection: upgrade\r\n\r\n", None),
        (HEALTH[:-2] + b"nonsense\r\n\r\n", None),
        (HEALTH[:-2] + b" folded: x\r\n\r\n", None),
    ],
)
def test_only_a_whole_and_plain_question_for_health_is_answered_at_the_door(seen, found):
    assert asked(seen) == found


def test_health_says_what_is_wrong():
    assert verdict(silent=0.4, block=100.0, longest=180.0) == (200, {"status": "ok"})
    assert verdict(silent=12.34, block=0.0, longest=180.0) == (
        503,
        {"status": "the event loop is silent", "seconds": 12.3},
    )
    assert verdict(silent=0.0, block=181.0, longest=180.0) == (503, {"status": "decoding is stuck", "seconds": 181.0})


class Door:
    """An acceptor on a thread, and the other end of its link."""

    def __init__(self, *, connections=4, seconds=5.0, longest=180.0):
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.link, theirs = socket.socketpair()
        self.link.settimeout(5)
        acceptor = Acceptor(listener, theirs, connections=connections, seconds=seconds, longest=longest)
        self.thread = threading.Thread(target=acceptor.run)
        self.thread.start()
        self._theirs = theirs

    def connect(self):
        made = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        return made

    def health(self, **options):
        return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5, **options)

    def handed(self):
        """The next connection that is handed on."""
        came, (descriptor,), *_ = socket.recv_fds(self.link, 1, 1)
        assert came
        return socket.socket(fileno=descriptor)

    def close(self):
        self.link.shutdown(socket.SHUT_WR)
        self.thread.join(5)
        assert not self.thread.is_alive()
        self._theirs.close()
        self.link.close()


@contextlib.contextmanager
def door(**options):
    made = Door(**options)
    try:
        yield made
    finally:
        made.close()


def test_what_is_no_question_for_health_is_handed_on_with_every_byte():
    with door() as at:
        for sent in (OTHER, b"NONSENSE", HEALTH[:20], b"\x16\x03\x01", b"x" * 100_000):
            with at.connect() as client:
                client.sendall(sent)
                with at.handed() as mine:
                    mine.settimeout(5)
                    heard = b""
                    while len(heard) < len(sent):
                        heard += mine.recv(65536)
                    assert heard == sent
                    mine.sendall(b"answer")
                    assert client.recv(100) == b"answer"


def test_a_connection_may_ask_for_health_many_times_and_then_for_something_else():
    with door() as at, at.connect() as client:
        client.sendall(HEALTH * 300 + OTHER)
        heard = b""
        while heard.count(b'{"status":"ok"}') < 300:
            heard += client.recv(65536)
        assert heard.count(b"HTTP/1.1 200 OK\r\n") == 300
        with at.handed() as mine:
            assert mine.recv(1000) == OTHER


def test_a_head_has_no_body_and_close_closes():
    with door() as at:
        with at.connect() as client:
            client.sendall(HEALTH.replace(b"GET", b"HEAD").replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            heard = b""
            while piece := client.recv(1000):
                heard += piece
        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
        assert heard.endswith(b"content-length: 15\r\nconnection: close\r\n\r\n")


def test_it_repeats_what_it_was_told_last_and_says_so_when_it_hears_nothing(monkeypatch):
    with door(longest=180.0) as at:
        assert at.health().json() == {"status": "ok"}
        at.link.sendall(BEAT.pack(10.0) + BEAT.pack(200.0)[:3])  # and a part of the next
        time.sleep(0.1)
        assert at.health().status_code == 200
        at.link.sendall(BEAT.pack(200.0)[3:])
        time.sleep(0.1)
        answer = at.health()
        assert (answer.status_code, answer.json()) == (503, {"status": "decoding is stuck", "seconds": 200.0})
        at.link.sendall(BEAT.pack(500.0) + BEAT.pack(0.0))
        time.sleep(0.1)
        assert at.health().status_code == 200
        monkeypatch.setattr(acceptor_process, "SILENT", 0.05)
        time.sleep(0.1)
        assert at.health().json()["status"] == "the event loop is silent"


def test_connections_that_say_nothing_make_room_and_are_closed_in_the_end():
    with door(connections=4, seconds=1.0) as at:
        silent = [at.connect() for _ in range(40)]
        assert at.health().status_code == 200
        for each in silent:
            assert each.recv(10) == b""
            each.close()


def test_connections_that_the_link_does_not_take_wait_and_more_are_told_to_come_back():
    with door(connections=400) as at:
        clients = []
        for _ in range(700):  # more than a link holds
            clients.append(at.connect())
            clients[-1].sendall(OTHER)
        assert at.health().status_code == 200
        at.link.settimeout(1.0)
        taken = []
        with contextlib.suppress(TimeoutError):
            taken.extend(iter(at.handed, None))
        assert 400 <= len(taken) < 700
        for each in taken:
            each.close()
        assert at.health().status_code == 200
        for each in clients:
            each.close()


def test_the_end_of_the_link_ends_it_and_those_on_their_way_arrive():
    made = Door()
    clients = [made.connect() for _ in range(3)]
    for each in clients:
        each.sendall(OTHER)
    time.sleep(0.1)
    made.link.shutdown(socket.SHUT_WR)
    made.thread.join(5)
    assert not made.thread.is_alive()
    for _ in clients:
        with made.handed() as mine:
            assert mine.recv(1000) == OTHER
    with pytest.raises(ConnectionError):
        made.connect()
    for each in (*clients, made.link, made._theirs):
        each.close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


def gone(process):
    """Whether a process has ended, waiting a little for that."""
    for _ in range(100):
        if process is None or not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.05)
    return False


def test_health_is_answered_while_the_event_loop_is_not_running_at_all(server):
    assert server.ask(max_tokens=8).status_code == 200
    server.process.send_signal(signal.SIGSTOP)
    try:
        answer = httpx.get(f"{server.http.base_url}/health", timeout=5)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert server.ask(max_tokens=8).status_code == 200


@pytest.mark.slow
def test_health_tells_when_the_event_loop_has_been_silent_for_long(server):
    server.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(acceptor_process.SILENT + 1)
        answer = httpx.get(f"{server.http.base_url}/health", timeout=5)
        assert (answer.status_code, answer.json()["status"]) == (503, "the event loop is silent")
    finally:
        server.process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    assert server.http.get("/health").status_code == 200


def test_the_service_goes_on_without_its_acceptor(server):
    os.kill(server.acceptor, signal.SIGKILL)
    server.http.close()
    server.http = httpx.Client(base_url=str(server.http.base_url), timeout=60)
    while server.acceptor is not None:
        time.sleep(0.01)
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.ask(max_tokens=8).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    assert "has ended" in server.process.stdout.read()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_service_ends(server, how):
    acceptor = server.acceptor
    assert acceptor is not None
    os.kill(acceptor, signal.SIGTERM)  # as a manager of services does it, to all of its processes
    assert server.http.get("/health").status_code == 200
    server.process.send_signal(how)
    assert server.process.wait(10) == (0 if how == signal.SIGTERM else -how)
    assert gone(acceptor)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.http.base_url}/health", timeout=5)


def test_health_says_that_decoding_is_stuck_where_the_event_loop_answers_it(monkeypatch):
    limits = Limits(timeout=5)
    client = TestClient(create_app(make_guard({"An answer.": 1.0}), limits=limits))
    assert (client.get("/health").status_code, client.get("/health").json()) == (200, {"status": "ok"})
    monkeypatch.setattr(type(worker()), "block_seconds", lambda self: longest_block(limits) + 1)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "decoding is stuck")
