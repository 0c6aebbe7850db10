"""A server that dies, stalls, babbles or lies costs its answer: a typed error, no text, and the guard goes on."""

import gzip
import json
import threading
import time

import pytest

from ig_plugins import (
    ConfigurationError,
    DeadlineExceededError,
    InferenceGuardError,
    RemoteBusyError,
    RemoteError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnavailableError,
    RequestCancelledError,
)
from ig_plugins.remote import RemoteOptions
from ig_plugins.remote.connection import Ask, Connection
from tests.ig_plugins.remote.conftest import QUESTION
from tests.kit.fake_engine import half, hangs_up, lies, says, stalls, status, trickles
from tests.kit.observe import LeakScanner, until
from tests.kit.raw_server import RawServer, http

KINDS = ("vllm", "llamacpp")
IDS = {"vllm": "token_ids", "llamacpp": "tokens"}
ENDED = {"vllm": "finish_reason", "llamacpp": "stop_type"}
FULL = {"vllm": "length", "llamacpp": "limit"}


def changed(kind, **fields):
    """Every choice with fields changed; ``ids`` and ``ended`` by what the kind calls them."""

    def change(choices):
        for choice in choices:
            for name, value in fields.items():
                at = {"ids": IDS[kind], "ended": ENDED[kind]}.get(name, name)
                choice[at] = value(choice[at]) if callable(value) else value

    return lies(change)


LIES = {
    "an id beyond the vocabulary": lambda kind: changed(kind, ids=lambda ids: [*ids[:-1], 10**6]),
    "a negative id": lambda kind: changed(kind, ids=lambda ids: [*ids[:-1], -1]),
    "an id of a thousand digits": lambda kind: changed(kind, ids=lambda ids: [*ids[:-1], 10**1000]),
    "an end that is a number": lambda kind: changed(kind, ended=10**1000),
    "an id that is a text": lambda kind: changed(kind, ids=lambda ids: [str(each) for each in ids]),
    "an id that is true": lambda kind: changed(kind, ids=lambda ids: [True, *ids[1:]]),
    "no ids": lambda kind: changed(kind, ids=None),
    "an empty block": lambda kind: changed(kind, ids=[], ended=FULL[kind]),
    "too many tokens": lambda kind: changed(kind, ids=lambda ids: [7] * 100, ended=FULL[kind]),
    "a block that broke off": lambda kind: changed(kind, ids=lambda ids: [7], ended=FULL[kind]),
    "an end that is none": lambda kind: changed(kind, ended="abort"),
    "no end": lambda kind: changed(kind, ended=None),
    "a choice too few": lambda kind: lies(lambda choices: choices[:-1]),
    "a choice too many": lambda kind: lies(lambda choices: [*choices, {**choices[0], "index": len(choices)}]),
    "the same choice twice": lambda kind: changed(kind, index=0),
    "choices without a number": lambda kind: changed(kind, index=None),
    "no choices": lambda kind: lies(lambda choices: []),
    "choices that are texts": lambda kind: lies(lambda choices: ["a"] * len(choices)),
    "no object": lambda kind: says(["a"]),
    "a number": lambda kind: says(3),
    "null": lambda kind: says(None),
    "no JSON": lambda kind: says(b"<html>Bad gateway</html>"),
    "JSON without end": lambda kind: says(b"[" * 100_000),
    "a key twice": lambda kind: says(b'{"choices": [], "choices": []}'),
    "a number that is none": lambda kind: says(b"NaN"),
    "half a document": lambda kind: says(b'{"choices": [{"index": 0'),
    "ten megabytes": lambda kind: says(b" " * 10_000_000),
    "another prompt": lambda kind: (
        changed(kind, prompt_token_ids=lambda ids: [*ids[:-1], 5])
        if kind == "vllm"
        else changed(kind, tokens_evaluated=lambda count: count - 1)
    ),
    "a prompt cut short": lambda kind: (
        changed(kind, prompt_token_ids=lambda ids: ids[1:]) if kind == "vllm" else changed(kind, truncated=True)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_is_not_what_was_asked_for_is_not_used(engine, guarded, kind):
    server = engine(kind)
    guard = guarded(server)
    for name, lie in LIES.items():
        fault, before = lie(kind), len(server.bodies)
        server.plan = lambda number, body, fault=fault: fault
        with pytest.raises(RemoteReplyError) as refused:
            guard.generate(QUESTION, timeout=60)
        assert len(server.bodies) - before <= 2, f"{name}: asked again, although a lie stays a lie"
        assert refused.value.__cause__ is None or isinstance(refused.value.__cause__, RemoteError), name
    server.plan = lambda number, body: None
    assert guard.generate(QUESTION).text


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_behind_a_stop_token_are_left_out(engine, guarded, kind):
    """A server may not stop at our stop tokens; what stands before them is drawn fairly all the same."""
    server = engine(kind)
    guard = guarded(server, load_options={"page": 0})
    (stop,) = guard.components.policy.stop_ids
    ids = guard.tokenizer.encode("The clean is no big deal at all", add_special_tokens=False)[:6]
    server.plan = lambda number, body: changed(kind, ids=lambda _: [*ids, stop, 7], ended=FULL[kind])
    result = guard.generate(QUESTION)
    assert result.token_ids == (*ids, stop)
    assert result.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [hangs_up, half, status(500), status(502), status(429), status(503)])
def test_what_was_not_answered_is_asked_again(engine, guarded, kind, fault):
    failed = set()

    def plan(number, body):
        once = str(body["prompt"]) not in failed and len(failed) < 3
        failed.add(str(body["prompt"]))
        return fault if once else None

    server = engine(kind)
    guard = guarded(server)
    server.plan = plan
    assert guard.generate(QUESTION).text
    assert failed


@pytest.mark.parametrize(
    ("fault", "error", "attempts"),
    [
        (hangs_up, RemoteUnavailableError, 3),
        (half, RemoteUnavailableError, 3),
        (status(500), RemoteUnavailableError, 3),
        (status(429), RemoteBusyError, 3),
        (status(503), RemoteBusyError, 3),
        (status(400), RemoteReplyError, 1),
        (status(404), RemoteReplyError, 1),
        (status(401), RemoteReplyError, 1),
        (status(302, location="http://127.0.0.1:1/"), RemoteReplyError, 1),
    ],
)
def test_a_server_that_goes_on_failing_is_given_up_with_a_typed_error(engine, guarded, fault, error, attempts):
    server = engine()
    guard = guarded(server, load_options={"attempts": 3})
    asked = len(server.bodies)
    server.plan = lambda number, body: fault
    with LeakScanner() as scanner, pytest.raises(error) as failed:
        guard.generate(QUESTION, timeout=60)
    assert len(server.bodies) - asked == attempts
    scanner.see_exception(failed.value)
    for marker in ("clean a window", "SECRET PROMPT", str(list(guard.request(QUESTION).prompt_ids))[1:20]):
        assert scanner.find(marker) == []
    server.plan = lambda number, body: None
    assert guard.generate(QUESTION).text


@pytest.mark.parametrize("wait", ["\u00b2", "9" * 400, "-1", "1e9", "Fri, 27 Nov 2026 13:00:00 GMT"])
def test_a_time_that_is_none_is_no_time(engine, guarded, wait):
    server = engine()
    guard = guarded(server, load_options={"attempts": 1})
    server.plan = lambda number, body: status(429, retry_after=wait)
    with pytest.raises(RemoteBusyError) as failed:
        guard.generate(QUESTION, timeout=60)
    assert failed.value.retry_after is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_reply_is_not_taken_for_one_to_another_prompt(engine, guarded, kind):
    """llama.cpp does not say which prompt it read, only how long it was."""
    judged, server = {}, engine(kind)

    def watching(prompts, responses):
        judged.update(zip(responses, prompts, strict=True))
        return [-1.0] * len(responses)

    guard = guarded(server, cost_model=watching, beams=1, max_tokens=8, load_options={"page": 0, "attempts": 1})
    ids = guard.tokenizer.encode("The clean is no big deal at all, and the clean is", add_special_tokens=False)[:8]

    def twice(handler, reply):
        whole = json.dumps(reply).encode()
        for row in reply if kind == "llamacpp" else reply["choices"]:
            row.update({IDS[kind]: ids, ENDED[kind]: FULL[kind]})
        another = json.dumps(reply).encode()
        for raw in (whole, another):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(raw), raw))
        handler.leave()
        handler.wfile.flush()

    server.plan = lambda number, body: twice
    guard.generate(QUESTION)
    server.plan = lambda number, body: None
    other, foreign = "How do I clean a kitchen?", guard.tokenizer.decode(ids)
    assert len(guard.request(other).prompt_ids) == len(guard.request(QUESTION).prompt_ids)
    try:
        guard.generate(other)
    except RemoteReplyError:
        assert kind == "vllm"
    assert judged.get(foreign) != other


def test_a_compressed_reply_is_not_unpacked(engine, guarded):
    def packed(handler, reply):
        handler.send(200, gzip.compress(json.dumps(reply).encode()), {"content-encoding": "gzip"})

    server = engine()
    guard = guarded(server)
    server.plan = lambda number, body: packed
    with pytest.raises(RemoteReplyError, match="compressed"):
        guard.generate(QUESTION, timeout=60)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_none_is_a_typed_error(engine, guarded, monkeypatch, variable):
    monkeypatch.setenv(variable, "other://user:WORD@host")
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as refused:
        guarded(engine())
    assert "WORD" not in str(refused.value)


def test_a_key_that_a_server_quotes_is_not_quoted_on(monkeypatch):
    monkeypatch.setenv("INFERENCEGUARD_REMOTE_KEY", "sk-WORD")

    def quoting(number, head):
        return [http(b"no such key: " + head, status="401 Unauthorized")]

    with RawServer(quoting) as server, pytest.raises(InferenceGuardError, match="it wants a key") as refused:
        Connection(server.base, RemoteOptions()).ask(Ask("/v1/models"))
    assert "no such key" in str(refused.value)
    assert "sk-WORD" not in str(refused.value)


def test_a_busy_server_is_asked_when_it_says(engine, guarded):
    times = []
    server = engine()
    guard = guarded(server)

    def plan(number, body):
        times.append(time.monotonic())
        return status(429, retry_after="1") if len(times) == 1 else None

    server.plan = plan
    assert guard.generate(QUESTION).text
    assert times[1] - times[0] >= 0.9


@pytest.mark.parametrize("fault", [stalls, trickles])
def test_a_server_that_does_not_come_to_an_end_is_given_up(engine, guarded, fault):
    server = engine()
    guard = guarded(server, load_options={"request_seconds": 1.0})
    server.plan = lambda number, body: fault
    started = time.monotonic()
    with pytest.raises(RemoteTimeoutError, match="did not reply within 1 s"):
        guard.generate(QUESTION)
    assert time.monotonic() - started < 5
    until(lambda: server.aborted >= 1)


@pytest.mark.parametrize("fault", [stalls, trickles, status(429)])
def test_every_wait_obeys_the_deadline_and_the_work_is_aborted(engine, guarded, fault):
    server = engine()
    guard = guarded(server, load_options={"attempts": 20})
    server.plan = lambda number, body: fault
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        guard.generate(QUESTION, timeout=1.0)
    assert time.monotonic() - started < 2.0
    if fault is not status:
        until(lambda: server.running == 0, seconds=10)
    server.plan = lambda number, body: None
    assert guard.generate(QUESTION).text


async def test_a_cancelled_task_aborts_its_calls_on_the_server(engine, guarded):
    import asyncio

    server = engine()
    guard = guarded(server)
    server.plan = lambda number, body: stalls
    task = asyncio.ensure_future(guard.agenerate(QUESTION))
    while server.running == 0:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end = time.monotonic() + 5
    while server.aborted == 0:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_a_closed_stream_aborts_its_calls_on_the_server(engine, guarded):
    server = engine()
    guard = guarded(server, max_tokens=60, candidates=4, beams=1)  # one beam, which need not agree with others
    chunks, calls = guard.stream(QUESTION), threading.Event()

    def plan(number, body):
        prompt = body["prompt"][0]
        if len(prompt) < 30:
            return None
        calls.set()
        return stalls

    server.plan = plan
    assert next(chunks).text
    assert calls.wait(30)
    chunks.close()
    until(lambda: server.aborted >= 1, seconds=10)


def test_when_one_call_of_a_block_fails_the_others_are_given_up(engine, guarded):
    server = engine()
    guard = guarded(server, beams=4, max_tokens=40)
    stalled = []

    def plan(number, body):
        if len(body["prompt"][0]) < 20:
            return None
        stalled.append(number)
        return stalls if len(stalled) < 2 else status(400)  # a server draws, so there may be fewer than four beams

    server.plan = plan
    with pytest.raises(RemoteReplyError):
        guard.generate(QUESTION, timeout=60)
    until(lambda: server.running == 0, seconds=10)
    assert server.aborted >= 1


def test_a_server_killed_in_the_middle_of_a_stream_leaves_only_judged_text(engine, guarded):
    judged = set()

    def watching(prompts, responses):
        judged.update(responses)
        return [-1.0] * len(responses)

    server = engine()
    guard = guarded(server, cost_model=watching, max_tokens=60, beams=1, load_options={"attempts": 2, "page": 0})
    prompt = len(guard.request(QUESTION).prompt_ids)
    (word,) = guard.tokenizer.encode(" the", add_special_tokens=False)[:1]

    def plan(number, body):
        """Four blocks that do not end, and no more: it cannot be done before it is killed."""
        if len(body["prompt"][0]) >= prompt + 32:
            return stalls
        return changed("vllm", ids=[word] * body["max_tokens"], ended=FULL["vllm"])

    server.plan = plan
    chunks = guard.stream(QUESTION, timeout=60)
    seen = next(chunks).text
    assert seen in judged
    server.kill()
    with pytest.raises(RemoteUnavailableError):
        seen += "".join(chunk.text for chunk in chunks)
    assert seen in judged
    server.plan = lambda number, body: None
    server.start()
    assert guard.generate(QUESTION).text


def test_a_fault_of_one_request_costs_the_others_nothing(engine, guarded):
    server = engine()
    guard = guarded(server)
    bad = guard.request("Tell me about medicine.").prompt_ids
    server.plan = lambda number, body: status(400) if body["prompt"][0][: len(bad)] == list(bad) else None
    found = guard.generate([QUESTION, "Tell me about medicine.", "Hello!"], return_exceptions=True)
    assert isinstance(found[1], RemoteReplyError)
    assert found[0].text
    assert found[2].text


def test_the_server_door_says_504_or_502(engine, guarded):
    from fastapi.testclient import TestClient

    from ig_plugins.server import create_app

    server = engine()
    client = TestClient(create_app(guarded(server, load_options={"attempts": 1, "request_seconds": 5.0})))
    ask = {"messages": [{"role": "user", "content": QUESTION}]}
    assert client.post("/v1/chat/completions", json=ask).status_code == 200
    for fault, code in ((stalls, 504), (status(500), 502), (status(429), 503), (hangs_up, 502), (says(b"x"), 502)):
        server.plan = lambda number, body, fault=fault: fault
        reply = client.post("/v1/chat/completions", json=ask)
        assert reply.status_code == code
        assert reply.json()["error"]["code"].startswith("Remote")
    refused = client.post("/v1/chat/completions", json={**ask, "seed": 3})
    assert refused.status_code == 400
    assert "leave seed out" in refused.text


def test_cancelling_is_told_apart_from_failing(engine, guarded):
    server = engine()
    guard = guarded(server)
    server.plan = lambda number, body: stalls
    ticket = guard.prepare(QUESTION)
    from ig_plugins.runtime import worker

    worker().submit([ticket])
    until(lambda: server.running > 0)
    ticket.cancel()
    with pytest.raises(RequestCancelledError):
        ticket.result()
