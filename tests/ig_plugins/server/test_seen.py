"""Seen from outside: metrics, spans and pages of other origins; figures and names, never a text."""

import gc
import re
import threading

import pytest
from fastapi.testclient import TestClient

from ig_plugins import observing, telemetry
from ig_plugins.server import create_app
from tests.kit.guards import MARKER, make_guard

pytest.importorskip("prometheus_client")

ASK = {"messages": [{"role": "user", "content": "A secret question?"}], "seed": 1}
CHAT = "/v1/chat/completions"


def broken(prompts, responses):
    raise RuntimeError("a secret cause")


def value(client, name, **labels):
    """A series' value; 0 where there is none yet."""
    found = 0.0
    for line in client.get("/metrics").text.splitlines():
        told, _, number = line.rpartition(" ")
        if told.partition("{")[0] == name and all(f'{key}="{each}"' in told for key, each in labels.items()):
            found += float(number)
    return found


@pytest.fixture
def client():
    guards = {
        "good": make_guard({"A secret answer.": 0.5, f"Just {MARKER} it.": 0.5}),
        "bad": make_guard({f"Just {MARKER} it.": 1.0}),
        "broken": make_guard({"A secret answer.": 1.0}, cost=broken),
    }
    return TestClient(create_app(guards))


def test_answers_blocks_tries_and_tokens_are_counted_by_model_and_outcome(client):
    answers = [client.post(CHAT, json={**ASK, "model": "good", "stream": stream}) for stream in (False, True)]
    report = answers[0].json()["inference_guard"]
    blocked = client.post(CHAT, json={**ASK, "model": "bad"}).json()["inference_guard"]
    client.post(CHAT, json={**ASK, "model": "broken"})
    client.post(CHAT, json={**ASK, "model": "broken", "stream": True})
    told = "inferenceguard_answers_total"
    assert value(client, told, model="good", outcome="answered", reason="stop") == 2
    assert value(client, told, model="bad", outcome="blocked", reason="content_filter") == 1
    assert value(client, told, model="broken", outcome="failed", reason="JudgeError") == 2
    assert value(client, "inferenceguard_blocks_total", model="good") == 2 * len(report["blocks"])
    assert value(client, "inferenceguard_tries_total", model="good") == 2 * sum(b["tries"] for b in report["blocks"])
    tokens = "inferenceguard_tokens_total"
    assert value(client, tokens, model="good", kind="sampled") == 2 * report["usage"]["candidate_tokens"]
    assert value(client, tokens, model="good", kind="released") == 2 * report["usage"]["completion_tokens"]
    assert value(client, tokens, model="bad", kind="sampled") == blocked["usage"]["candidate_tokens"] > 0
    assert value(client, "inferenceguard_failed_tries_total") >= 4, "of the blocked answer too"
    assert value(client, "inferenceguard_first_text_seconds_count", model="good") == 2
    assert value(client, "inferenceguard_judge_calls_total", judge="marker", outcome="ok") > 0
    assert value(client, "inferenceguard_judge_calls_total", judge="marker", outcome="JudgeError") >= 2
    assert value(client, "inferenceguard_judge_seconds_count", judge="reward") > 0
    assert value(client, "inferenceguard_block_seconds_count") > 0


def test_requests_are_counted_by_path_and_status_and_no_client_makes_a_series(client):
    client.post(CHAT, json={**ASK, "model": "good"})
    client.post(CHAT, json={**ASK, "candidats": 1})
    for number in range(20):
        client.get(f"/v1/secret-{number}")
    assert value(client, "inferenceguard_requests_total", path=CHAT, status="200") == 1
    assert value(client, "inferenceguard_requests_total", path=CHAT, status="400") == 1
    assert value(client, "inferenceguard_requests_total", path="other", status="404") == 20
    assert value(client, "inferenceguard_running") == value(client, "inferenceguard_queued") == 0
    assert value(client, "inferenceguard_memory_allowed_bytes") > 0
    assert value(client, "process_resident_memory_bytes") > 0


def test_no_text_is_in_any_series(client):
    for model in ("good", "bad", "broken"):
        client.post(CHAT, json={**ASK, "model": model})
    client.post(CHAT, json={**ASK, "model": "a secret model"})
    told = client.get("/metrics").text
    assert "ecret" not in told
    assert MARKER not in told
    assert set(re.findall(r'model="([^"]+)"', told)) == {"good", "bad", "broken"}


def test_metrics_need_a_key_where_there_are_keys_and_can_be_left_out():
    guard = make_guard()
    locked = TestClient(create_app(guard, keys=["one"]))
    assert locked.get("/metrics").status_code == 401
    assert locked.get("/metrics", headers={"authorization": "Bearer one"}).status_code == 200
    assert TestClient(create_app(guard, metrics=False)).get("/metrics").status_code == 404


def test_a_service_that_is_gone_watches_no_more():
    gc.collect()
    before = len(observing._observers)
    app = create_app(make_guard())
    assert len(observing._observers) == before + 1
    del app
    gc.collect()
    assert len(observing._observers) == before


def test_a_judge_that_is_left_behind_is_counted_once():
    free = threading.Event()
    guard = make_guard({"Hello.": 1.0}, cost=lambda p, r: free.wait(30) and [-1.0] * len(r), judge_timeout=0.2)
    client = TestClient(create_app(guard))
    client.post(CHAT, json=ASK)
    free.set()
    for thread in threading.enumerate():
        if thread.name == "inferenceguard-judge":
            thread.join(5)
    assert value(client, "inferenceguard_judge_calls_total", judge="marker", outcome="JudgeTimeoutError") >= 1
    assert value(client, "inferenceguard_judge_calls_total", judge="marker", outcome="ok") == 0


@pytest.mark.parametrize(("origin", "allowed"), [("https://chat.example.org", True), ("https://evil.example", False)])
def test_pages_of_allowed_origins_may_ask_and_need_no_key_to_find_out(origin, allowed):
    client = TestClient(create_app(make_guard(), cors=["https://chat.example.org"], keys=["one"]))
    head = {"origin": origin, "access-control-request-method": "POST"}
    asked = {**head, "access-control-request-headers": "authorization,content-type,x-stainless-lang"}
    before = client.options(CHAT, headers=asked)
    assert (before.status_code == 200) == allowed
    answer = client.post(CHAT, json=ASK, headers={"origin": origin, "authorization": "Bearer one"})
    assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    assert client.post(CHAT, json=ASK, headers={"origin": origin}).status_code == 401
    if allowed:
        assert "x-inference-guard-blocked" in answer.headers["access-control-expose-headers"]


@pytest.fixture
def spans():
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    stop = telemetry.start(provider)
    yield provider, found
    stop()


def by_name(found):
    """Finished spans; an answer is there a moment before its last block ends."""
    for thread in threading.enumerate():
        if thread.name == "inferenceguard":
            thread.join(10)
    named = {}
    for span in found.get_finished_spans():
        named.setdefault(span.name, []).append(span)
    return named


def test_a_search_has_its_blocks_and_a_block_its_judges(spans):
    provider, found = spans
    with provider.get_tracer("test").start_as_current_span("mine") as mine:
        result = make_guard({"A secret answer.": 1.0}).generate("A secret question?")
    named = by_name(found)
    (search,) = named["inferenceguard.search"]
    assert search.parent.span_id == mine.get_span_context().span_id
    assert search.attributes["inferenceguard.finish_reason"] == "stop"
    assert search.attributes["inferenceguard.candidate_tokens"] == result.usage.candidate_tokens
    blocks = named["inferenceguard.block"]
    assert {block.parent.span_id for block in blocks} == {search.context.span_id}
    assert {judge.parent.span_id for judge in named["inferenceguard.judge"]} <= {b.context.span_id for b in blocks}
    assert {judge.attributes["inferenceguard.judge"] for judge in named["inferenceguard.judge"]} == {"marker", "reward"}
    assert "ecret" not in "".join(span.to_json() for span in found.get_finished_spans())


def test_blocks_of_several_requests_are_linked_to_all_of_them(spans):
    _, found = spans
    make_guard({"A secret answer.": 1.0}).generate(["One?", "Two?", "Three?"])
    named = by_name(found)
    searches = {span.context.span_id for span in named["inferenceguard.search"]}
    assert len(searches) == 3
    assert any({link.context.span_id for link in block.links} == searches for block in named["inferenceguard.block"])


def test_what_fails_is_marked_by_its_kind_and_not_by_its_words(spans):
    from ig_plugins.errors import JudgeError

    _, found = spans
    with pytest.raises(JudgeError):
        make_guard({"Hello.": 1.0}, cost=broken).generate("How?")
    named = by_name(found)
    assert named["inferenceguard.search"][0].status.description == "JudgeError"
    assert "ecret" not in "".join(span.to_json() for span in found.get_finished_spans())


def test_a_request_goes_on_the_clients_trace(spans, monkeypatch):
    provider, found = spans
    monkeypatch.setattr(telemetry, "tracer", lambda given=None: provider.get_tracer("test"))
    client = TestClient(create_app(make_guard(), telemetry=True))
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    for stream in (False, True):
        client.post(CHAT, json={**ASK, "stream": stream}, headers={"traceparent": f"00-{trace}-{parent}-01"})
    named = by_name(found)
    requests = named[f"POST {CHAT}"]
    assert {format(span.parent.span_id, "016x") for span in requests} == {parent}
    assert {span.attributes["http.response.status_code"] for span in requests} == {200}
    assert {s.parent.span_id for s in named["inferenceguard.search"]} == {r.context.span_id for r in requests}
