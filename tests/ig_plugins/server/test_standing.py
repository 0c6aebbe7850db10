"""Nobody can take the server down: real processes with a memory limit, and clients that mean it harm."""

import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import statistics
import struct
import threading
import time

import httpx
import pytest

from tests.ig_plugins.server.running import ASK, Server

ROOM = 1024  # MiB above what the loaded models take
KILLING = {**ASK, "candidates": 1024, "beams": 1024, "block_tokens": 3900, "max_tokens": 3900}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    """With one GiB, and clocks that a test can wait for."""
    clocks = {"head_seconds": 1.0, "body_seconds": 1.0, "send_seconds": 2.0}
    made = Server(room_mib=ROOM, **clocks, connections=24, queued=8, running=4)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def roomy():
    """With two GiB and the usual limits."""
    made = Server(room_mib=2048)
    yield made
    made.stop()


def test_the_request_that_killed_it_is_refused_with_the_ceiling_named(server):
    before = server.memory("VmHWM")
    started = time.monotonic()
    answer = server.http.post("/v1/chat/completions", json=KILLING)
    assert answer.status_code == 400
    assert "candidates is 1024, and this server allows at most 128" in answer.json()["error"]["message"]
    assert time.monotonic() - started < 5
    assert server.memory("VmHWM") < before + 100
    assert server.ask().status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"candidates": 129}, 400, "candidates is 129"),
        ({"beams": 65, "candidates": 100}, 400, "beams is 65"),
        ({"block_tokens": 129, "max_tokens": 200}, 400, "block_tokens is 129"),
        ({"max_tokens": 4097}, 400, "max_tokens is 4097"),
        ({"tries": 9}, 400, "tries is 9"),
        ({"candidates": 128, "block_tokens": 100}, 400, "(candidates + beams) x block_tokens is"),
        ({"candidates": 10**9}, 400, "candidates"),
        ({"max_tokens": 10**30}, 400, "max_tokens"),
        ({"stop": ["x"] * 17}, 400, "stops is 17"),
        ({"messages": [{"role": "user", "content": "a " * 200_000}]}, 400, "context"),
        ({"messages": [{"role": "user", "content": "a"}] * 20_000}, 400, "context"),
        ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(15_000)]}, 400, ""),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, 400, ""),
        ({"temperature": 1e400}, 400, "temperature"),
        ({"timeout": -1}, 400, "timeout"),
        ({"n": 10**9}, 400, "n x prompts is 1000000000"),
        ({"n": 8, "candidates": 100}, 400, "answers x (candidates + beams) x block_tokens is"),
        ({"n": 10**30}, 400, "n"),
        ({"schedule": [1] * 10**5}, 400, ""),
        ({"logit_bias": {str(token): -100 for token in range(50_000)}}, 400, "logit_bias"),
        ({"model": "m" * 500_000}, 404, "is not served here"),
        ({"messages": [{"role": "assistant", "content": [{"type": "refusal"}] * 20_000}]}, 400, ""),
        ({"messages": [{"role": "r" * 500_000, "content": "x"}]}, 400, "message 0 has the role"),
        ({"messages": [{"k" * 500_000: 1, "role": "user", "content": "x"}]}, 400, "message 0 has the unknown key"),
        ({"x" * 500_000: 1}, 400, "does not know this field"),
    ],
)
def test_whatever_is_too_large_is_refused_by_name(server, change, status, says):
    raw = json.dumps({**ASK, **change})
    answer = server.http.post("/v1/chat/completions", content=raw)
    assert answer.status_code == status, answer.text[:500]
    assert says in answer.json()["error"]["message"]
    assert len(answer.text) < 2_000, "an error does not repeat the request"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 900_000, 400),
        (b'{"messages": ' + b'{"a":' * 100_000, 400),
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"null", 400),
        (b'{"messages": "' + b"x" * 2**20 + b'"}', 413),
    ],
)
def test_bodies_that_are_no_request_are_refused(server, body, status):
    answer = server.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": ["a"] * 100_000}, 400),
        ("/v1/completions", {"prompt": "a " * 400_000}, 400),
        ("/v1/completions", {"prompt": []}, 400),
        ("/v1/completions", {"prompt": ""}, 400),
        ("/tokenize", {"prompt": "a " * 400_000}, 200),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}] * 20_000}, 200),
        ("/tokenize", {}, 400),
    ],
)
def test_other_endpoints_stand_as_well(server, path, body, status):
    answer = server.http.post(path, json=body)
    assert answer.status_code == status, answer.text[:300]
    assert server.ask(max_tokens=8).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"x: " + b"a" * 60_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 8_000 + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nabc",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"GET /health HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 300,
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_whatever_comes_over_the_wire_is_answered_or_cut_off(server, sent):
    with server.connect() as client, contextlib.suppress(ConnectionError):
        client.settimeout(10)
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert server.http.get("/health").status_code == 200
    assert server.ask(max_tokens=8).status_code == 200


def test_a_body_is_refused_by_its_length_before_it_is_read(server):
    with server.connect() as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\n")
        assert b" 413 " in client.recv(4096).split(b"\r\n")[0]


def test_a_body_without_a_length_is_read_up_to_the_limit_only(server):
    with server.connect() as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        heard = b""
        try:
            for _ in range(400):
                client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            pass
        try:
            heard = client.recv(4096)
        except OSError:
            return  # reset: it did not read on
        assert b" 413 " in heard.split(b"\r\n")[0]


def test_half_sent_heads_and_bodies_are_not_waited_for(server):
    before = server.descriptors
    halves = []
    for sent in (b"", b"POST /v1", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{"):
        for _ in range(5):
            halves.append(server.connect())
            halves[-1].sendall(sent)
    assert server.http.get("/health").status_code == 200
    for each in halves:
        each.settimeout(10)
        try:
            while each.recv(4096):
                pass
        except ConnectionResetError:
            pass
        each.close()
    time.sleep(0.3)
    assert server.descriptors <= before + 1
    assert server.ask().status_code == 200


def test_a_head_that_drips_is_cut_off(server):
    with server.connect() as client:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(b"x-a: b\r\n" if _ else b"GET /health HTTP/1.1\r\n")
                time.sleep(0.05)
        assert time.monotonic() - started < 5


def test_more_connections_than_allowed_make_room_by_the_idlest(server):
    idle = [server.connect() for _ in range(60)]
    assert httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=5).status_code == 200
    for each in idle:
        each.close()


def test_half_sent_bodies_keep_nobody_out():
    server = Server(connections=6, body_seconds=60)
    try:
        halves = [server.connect() for _ in range(12)]
        for each in halves:
            each.sendall(HEAD % 1000 + b"{")
            time.sleep(0.02)
        server.http.close()
        answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/chat/completions", json=ASK, timeout=60)
        assert answer.status_code == 200
        for each in halves:
            each.close()
    finally:
        server.stop()


def test_a_body_with_two_lengths_is_refused_and_what_follows_is_not_read(server):
    """A proxy that goes by the other length takes the rest for another request, or sends one on unseen."""
    with server.connect() as client:
        client.settimeout(10)
        client.sendall(
            b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /ready HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        heard = b""
        while piece := client.recv(4096):
            heard += piece
    assert heard.startswith(b"HTTP/1.1 400 ")
    assert heard.count(b"HTTP/1.1 ") == 1


def test_more_requests_than_the_queue_holds_are_told_when_to_come_back(server):
    async def crowd():
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(base_url=str(server.http.base_url), timeout=120, limits=limits) as client:
            ask = {**ASK, "max_tokens": 128, "candidates": 64, "beams": 16}
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=ask) for _ in range(20)))

    answers = asyncio.run(crowd())
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 12
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "running" in refused.json()["error"]["message"]
    assert server.ask().status_code == 200


def answered_before_a_short_one(server, bodies):
    """Sends these at once, and something short when three of them wait; how many are answered before it."""
    ended = []

    def send(body):
        httpx.post(f"{server.http.base_url}/v1/chat/completions", content=json.dumps(body), timeout=120)
        ended.append(body)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    while server.http.get("/ready").json()["queued"] < 3 and not ended:
        time.sleep(0.01)
    assert server.ask().status_code == 200
    before = len(ended)
    for thread in threads:
        thread.join()
    return before


def test_a_short_prompt_is_not_read_behind_long_ones(roomy):
    long = {"messages": [{"role": "user", "content": "word " * 200_000}]}
    assert answered_before_a_short_one(roomy, [long] * 6) < 6


def test_a_plain_prompt_is_not_read_behind_a_grammar_that_takes_long(roomy):
    """A few hundred bytes of a schema or a regular expression may take seconds to be made into a mask."""
    hard = [f"(.{{1,{size}}}x){{1,50}}" for size in (4999, 5000, 5001)]
    bodies = [{**ASK, "regex": regex, "max_tokens": 1100, "timeout": 0.001} for regex in hard]
    assert answered_before_a_short_one(roomy, bodies) < 3


def test_a_request_that_takes_too_long_to_read_is_told_so():
    server = Server(timeout=0.3)
    try:
        started = time.monotonic()
        answer = server.ask(regex="(.{1,5000}x){1,50}", max_tokens=2000)
        assert answer.status_code == 504
        assert time.monotonic() - started < 5
    finally:
        server.stop()


def test_a_client_that_goes_away_frees_its_place(server):
    for stream in (False, True):
        for _ in range(6):
            with server.connect() as client:
                ask = {**ASK, "max_tokens": 1000, "candidates": 100, "beams": 1, "stream": stream}
                body = json.dumps(ask).encode()
                client.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
                )
                client.sendall(body)
                time.sleep(0.05)
    assert server.rest() == {"status": "ok", "running": 0, "queued": 0}


@pytest.mark.parametrize("requests", [1, 2])
def test_nothing_is_written_to_a_client_that_has_gone(roomy, requests):
    """Many pieces may be ready when it is found out; asyncio says a word for each that is written all the same."""
    narrow = {"candidates": 2, "beams": 1, "block_tokens": 4, "max_tokens": 64}
    body = json.dumps({**ASK, **narrow, "n": 8, "stream": True}).encode()

    def come_and_go(number):
        luck = random.Random(number)
        for _ in range(8):
            with roomy.connect() as client, contextlib.suppress(OSError):
                client.sendall((HEAD % len(body) + body) * requests)
                for _ in range(luck.randrange(1, 6)):
                    client.recv(luck.choice((10, 65536)))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert roomy.rest() == {"status": "ok", "running": 0, "queued": 0}
    assert "socket.send()" not in roomy.said


@pytest.mark.parametrize("more", [b"", b"P", HEAD % 10])
def test_a_client_that_has_sent_more_and_goes_away_is_noticed(roomy, more):
    """A next request is not read before the first is answered, and so the end of the connection is not, either."""
    long = {"regex": "[a-z ]{900}", "max_tokens": 900, "candidates": 100, "beams": 28, "block_tokens": 32}
    body = json.dumps({**ASK, **long}).encode()
    with roomy.connect() as client:
        client.sendall(HEAD % len(body) + body)
        assert any(roomy.http.get("/ready").json()["running"] or time.sleep(0.02) for _ in range(500))
        client.sendall(more)
        time.sleep(0.2)
    started = time.monotonic()
    assert roomy.rest() == {"status": "ok", "running": 0, "queued": 0}
    assert time.monotonic() - started < 10


def test_answers_do_not_wait_for_the_clients_acknowledgement(server):
    """A response goes out in two parts; the second must not wait 40 ms for the client to acknowledge the first."""
    took = sorted(_seconds(lambda: server.http.get("/ready")) for _ in range(40))
    assert took[len(took) // 4] < 0.03


def test_collecting_garbage_silences_nobody(server):
    """All that torch and transformers have made is 400,000 objects; looking at each takes 0.3 s, and holds the GIL."""
    assert server.ask().status_code == 200
    server.process.send_signal(signal.SIGUSR1)
    told = server.process.stdout.readline()
    assert float(re.search(r"collected in ([\d.]+) s", told)[1]) < 0.05


def test_a_small_request_beside_large_ones_takes_at_most_three_times_as_long_and_health_answers(roomy):
    """Large ones as large as the ceilings allow, four at once, all the time."""
    small = {"max_tokens": 32}
    roomy.ask(**small)
    alone = statistics.median(_seconds(lambda: roomy.ask(**small)) for _ in range(7))
    over = threading.Event()
    large = {**ASK, "candidates": 120, "beams": 8, "block_tokens": 32, "max_tokens": 1024, "stream": True}
    done = []

    def keep_asking():
        with httpx.Client(base_url=str(roomy.http.base_url), timeout=60) as client:
            while not over.is_set():
                done.append(client.post("/v1/chat/completions", json={**large, "seed": len(done)}).status_code)

    health = []

    def look():
        with httpx.Client(base_url=str(roomy.http.base_url), timeout=60) as client:
            while not over.is_set():
                health.append(_seconds(lambda: client.get("/health")))
                time.sleep(0.02)

    threads = [threading.Thread(target=keep_asking) for _ in range(4)] + [threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    beside = min(statistics.median(_seconds(lambda: roomy.ask(**small)) for _ in range(5)) for _ in range(3))
    long_prompt = {"messages": [{"role": "user", "content": "word " * 150_000}], "stream": True}
    assert roomy.ask(**long_prompt).status_code == 400
    over.set()
    for thread in threads:
        thread.join()
    health.sort()
    assert set(done) == {200}
    assert beside < 3 * alone
    assert health[int(0.99 * len(health))] < 0.1


def _seconds(act):
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def test_what_does_not_fit_into_memory_is_refused_with_both_sizes():
    server = Server(memory_bytes=64 * 2**20)
    try:
        answer = server.ask(candidates=120, beams=8, block_tokens=32, max_tokens=2048)
        assert answer.status_code == 400
        assert "may take" in answer.json()["error"]["message"]
        assert "64 MiB (its limit memory_bytes)" in answer.json()["error"]["message"]
        assert server.ask().status_code == 200
    finally:
        server.stop()


def test_the_operators_timeout_wins_and_the_clients_may_only_be_shorter():
    server = Server(timeout=0.3)
    try:
        large = {"candidates": 120, "beams": 8, "block_tokens": 32, "max_tokens": 1024}
        for timeout in (None, 3600):
            started = time.monotonic()
            answer = server.ask(**large, timeout=timeout)
            assert answer.status_code in (200, 504)
            assert time.monotonic() - started < 5
        assert server.ask(timeout=0.001).status_code == 504
    finally:
        server.stop()


def start_long(server, *, wait=True):
    """A request that is under way for a while, on a thread; what it got is put into the list."""
    got = []
    ask = {**ASK, "candidates": 120, "beams": 1, "block_tokens": 32, "max_tokens": 512}
    thread = threading.Thread(
        target=lambda: got.append(httpx.post(f"{server.http.base_url}/v1/chat/completions", json=ask, timeout=60))
    )
    thread.start()
    while wait and server.http.get("/ready").json()["running"] == 0 and thread.is_alive():
        time.sleep(0.01)
    return thread, got


def test_a_signal_lets_answers_end_and_says_what_is_waited_for():
    server = Server(drain_seconds=20)
    try:
        thread, got = start_long(server)
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert got[0].status_code == 200
        assert server.process.wait(10) == 0
        assert "waiting for 1 running and 0 queued requests, at most 20 s more" in server.process.stdout.read()
    finally:
        server.stop()


def test_answers_that_take_too_long_are_given_up_at_the_end():
    server = Server(drain_seconds=0.1)
    try:
        asking = [start_long(server, wait=False) for _ in range(16)]  # decoded in turn: the last have long to go
        while sum(server.http.get("/ready").json()[state] for state in ("running", "queued")) < 8:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        server.process.wait(15)
        for thread, _ in asking:
            thread.join()
        assert time.monotonic() - started < 10
        assert re.search(r"gave up [1-9]\d* requests", server.process.stdout.read())
        assert 503 in [answer.status_code for _, got in asking for answer in got]
    finally:
        server.stop()


def test_a_second_signal_ends_it_at_once():
    server = Server(drain_seconds=60)
    try:
        with server.connect() as client:
            body = json.dumps({**ASK, "candidates": 120, "beams": 1, "block_tokens": 32, "max_tokens": 2000}).encode()
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            while server.http.get("/ready").json()["running"] == 0:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(5) in (0, -signal.SIGTERM)
    finally:
        server.stop()
