"""One request, one reply: within its time and size, from a connection on which no other reply can stand."""

import gzip
import time
import tracemalloc

import pytest

from critic_models.exchange import NoReplyError, Wire
from critic_models.http_loop import loop
from tests.kit.raw_server import RawServer, http


def ask(server, *, wire=None, body=None, seconds=5.0, most_bytes=2**20):
    wire = wire or Wire(connect_seconds=5.0, keep=False)
    base = server if isinstance(server, str) else server.base
    return loop.run(wire.exchange(base, body or {}, headers={}, seconds=seconds, most_bytes=most_bytes))


def trickled(*heads):
    def reply(number, head):
        yield b"HTTP/1.1 200 OK\r\n"
        yield from heads
        while True:
            time.sleep(0.05)
            yield b"x-more: y\r\n"

    return reply


def empty_blocks(number, head):
    """Compressed data without end that never unpacks to anything."""
    yield b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    yield b"a\r\n" + gzip.compress(b"")[:10] + b"\r\n"
    while True:
        time.sleep(0.05)
        yield b"5\r\n\x00\x00\x00\xff\xff\r\n"


@pytest.mark.parametrize("reply", [trickled(), empty_blocks])
def test_no_reply_is_waited_for_beyond_its_time(reply):
    started = time.monotonic()
    with RawServer(reply) as server, pytest.raises(NoReplyError):
        ask(server, seconds=0.5)
    assert time.monotonic() - started < 3


def test_a_second_reply_on_a_connection_answers_no_other_request():
    with RawServer(lambda number, head: [http([number]) + http(["another's"])]) as server:
        wire = Wire(connect_seconds=5.0, keep=False)
        assert [ask(server, wire=wire).content for _ in range(3)] == [b"[1]", b"[2]", b"[3]"]
        assert server.connections == 3


def test_a_reply_that_is_longer_than_it_says_answers_no_other_request():
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}" + http(["another's"])
    with RawServer(lambda number, head: [reply]) as server:
        wire = Wire(connect_seconds=5.0, keep=False)
        assert [ask(server, wire=wire).content for _ in range(2)] == [b"{}", b"{}"]


@pytest.mark.parametrize("encodings", ["gzip", "gzip, gzip", "br", "x-own"])
def test_what_is_compressed_is_not_unpacked(encodings):
    bomb = gzip.compress(gzip.compress(b" " * 2**27))
    with RawServer(lambda number, head: [http(bomb, f"content-encoding: {encodings}")]) as server:
        tracemalloc.start()
        try:
            with pytest.raises(NoReplyError, match="compressed"):
                ask(server)
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()
        assert b"accept-encoding: identity" in server.heads[0].lower()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "other://user:WORD@host"),
        ("ALL_PROXY", "other://user:WORD@host"),
        ("SSL_CERT_FILE", "/nowhere/WORD.pem"),
    ],
)
def test_what_the_environment_breaks_is_told_without_its_words(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(NoReplyError) as failed:
        ask("http://127.0.0.1:9/")
    assert failed.value.why == "unusable"
    assert "WORD" not in str(failed.value)


def test_what_cannot_be_sent_leaves_no_trace_of_it():
    with pytest.raises(NoReplyError) as failed:
        ask("http://127.0.0.1:9/", body={"prompts": ["SECRET \ud800"]})
    assert failed.value.why == "unusable"
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None


def test_hosts_that_are_none_are_told_apart_from_servers_that_are_away():
    for url in ("http://" + "a" * 64 + ".example/", "http://[1/", "http://127.0.0.1:9/"):
        with pytest.raises(NoReplyError) as failed:
            ask(url)
        assert failed.value.why in ("unusable", "unreachable")
