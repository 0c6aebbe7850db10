"""The service speaks the OpenAI chat format and never sends unverified text."""

import json
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient

from ig_plugins.server import Limits, create_app
from tests.ig_plugins.server.thread import serving
from tests.kit.guards import MARKER, make_guard

ASK = {"messages": [{"role": "user", "content": "How?"}], "seed": 1}


@pytest.fixture(scope="module")
def client():
    guard = make_guard({f"Just {MARKER} it.": 0.7, "Do it gently, with gloves on.": 0.3}, timeout=30)
    return TestClient(create_app(guard))


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_carries_usage_and_the_guard_report(client):
    body = client.post("/v1/chat/completions", json=ASK).json()
    assert body["choices"][0]["message"]["content"] == "Do it gently, with gloves on."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["inference_guard"]["blocked"] is False
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


def test_no_page_loads_anything_from_elsewhere(client):
    assert client.get("/openapi.json").status_code == 200
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404
        assert client.get(path).json()["error"]["message"] == "Not Found"


def test_a_stream_joins_to_the_same_answer_with_the_report_in_the_last_chunk_only(client):
    chunks = events(client.post("/v1/chat/completions", json={**ASK, "stream": True}))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "Do it gently, with gloves on."
    assert [("inference_guard" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_a_blocked_answer_is_marked_as_a_refusal():
    client = TestClient(create_app(make_guard({f"Just {MARKER} it.": 1.0})))
    body = client.post("/v1/chat/completions", json=ASK).json()
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert body["choices"][0]["message"]["refusal"] == body["choices"][0]["message"]["content"]
    assert MARKER not in json.dumps(body)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "wizard"),
        ({"beams": 99}, 400, "beams is 99"),
        ({"guard": False}, 400, "guard"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_are_refused_with_a_reason_before_anything_is_sent(client, change, status, says, stream):
    response = client.post("/v1/chat/completions", json={**ASK, "stream": stream, **change})
    assert response.status_code == status
    assert says in response.text


def test_a_judge_that_fails_gives_an_error_and_no_text():
    def broken(prompts, responses):
        raise RuntimeError("boom")

    client = TestClient(create_app(make_guard({"Hello.": 1.0}, cost=broken)))
    response = client.post("/v1/chat/completions", json=ASK)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "JudgeError"
    assert "Hello" not in response.text
    *_, event = events(client.post("/v1/chat/completions", json={**ASK, "stream": True}))
    assert event["error"]["code"] == "JudgeError"


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_explained_to_the_operator_and_not_to_the_client(tmp_path, caplog, stream):
    rules = tmp_path / "rules.py"
    rules.write_text("def rude(prompts, responses):\n    raise RuntimeError('it said ' + responses[0])\n")
    client = TestClient(create_app(make_guard({"Hello.": 1.0}, cost=f"{rules}:rude")))
    response = client.post("/v1/chat/completions", json={**ASK, "stream": stream})
    assert "a judge of this service failed" in response.text
    assert "rules.py" not in response.text
    (line,) = [each.getMessage() for each in caplog.records if each.name == "inferenceguard.errors"]
    assert f"RuntimeError in {rules}, line 2, rude" in line
    assert "Hello" not in line + response.text


def test_a_client_whose_own_time_is_over_does_not_fill_the_operators_log(caplog):
    client = TestClient(create_app(make_guard({"Hello.": 1.0})))
    response = client.post("/v1/chat/completions", json={**ASK, "timeout": 1e-6})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "DeadlineExceededError"
    assert not [each for each in caplog.records if each.name == "inferenceguard.errors"]


def test_health_and_models(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v1/models").json()["data"][0]["id"] == "scripted"


@pytest.mark.parametrize("stream", [False, True])
def test_a_judge_that_hangs_and_too_little_memory_have_codes_of_their_own(stream, monkeypatch):
    free = threading.Event()
    hanging = make_guard({"Hello.": 1.0}, cost=lambda p, r: free.wait(30) and [], judge_timeout=0.2)

    def full(*given):
        raise MemoryError

    for guard, status, kind in (
        (hanging, 504, "JudgeTimeoutError"),
        (make_guard({"Hello.": 1.0}), 503, "NotEnoughMemoryError"),
    ):
        if status == 503:
            monkeypatch.setattr(guard.components.policy.tree, "following", full)
        response = TestClient(create_app(guard)).post("/v1/chat/completions", json={**ASK, "stream": stream})
        assert response.status_code == (200 if stream else status)
        told = events(response)[-1] if stream else response.json()
        assert told["error"]["code"] == kind
    free.set()


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_given_up_at_the_end_says_so_at_once(stream, caplog):
    """A judge that is being asked cannot be interrupted, and nobody who waits for the answer need wait for it."""
    begun, heard = threading.Event(), []

    def slow(prompts, responses):
        begun.set()
        time.sleep(6)
        return [-1.0] * len(responses)

    def ask(url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**ASK, "stream": stream}, timeout=60) as answer:
            heard.append(answer.status_code)
            heard.extend(answer.iter_lines())

    with serving(make_guard({"Fine.": 1.0}, cost=slow), limits=Limits(drain_seconds=0.1)) as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        assert begun.wait(60)
    asking.join()
    assert heard[0] == (200 if stream else 503)
    assert "given up" in "".join(heard[1:])
    assert not stream or heard[-2] == "data: [DONE]"
    assert "Exception in ASGI application" not in caplog.text
