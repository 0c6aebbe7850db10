"""The playground's server side: there only by the operator's word, behind the same gate, limits and keys as answers."""

import re

import pytest
from fastapi.testclient import TestClient

from critic_models.safety import SafetyBudget
from ig_plugins.errors import ConfigurationError
from ig_plugins.page import Document
from ig_plugins.server import Limits, create_app
from ig_plugins.server.ui import check_reach
from tests.kit.guards import MARKER, make_guard

ANSWERS = {f"{MARKER} one.": 0.5, "A calm answer.": 0.5}
ASK = {"prompt": "Tell me.", "seed": 1}


def client(*, ui=True, keys=(), limits=None, **options):
    guard = make_guard(ANSWERS, block_tokens=8, **options)
    return TestClient(create_app(guard, ui=ui, keys=keys, limits=limits))


def test_it_is_not_there_unless_the_operator_says_so():
    closed = client(ui=False)
    assert closed.get("/ui").status_code == 404
    assert closed.post("/ui/trace", json=ASK).status_code in (404, 405)


def test_it_answers_with_the_trace_and_the_unguarded_answer():
    answer = client().post("/ui/trace", json=ASK)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = Document.model_validate_json(answer.content)
    assert found.result.seed == 1
    assert found.result.trace.tries
    assert found.unguarded is not None
    assert MARKER in answer.text  # what the operator came to see
    alone = Document.model_validate_json(client().post("/ui/trace", json={**ASK, "beside": False}).content)
    assert alone.unguarded is None
    assert alone.result.text == found.result.text


def test_the_answer_is_the_services_own():
    served = client()
    found = Document.model_validate_json(served.post("/ui/trace", json={**ASK, "candidates": 6}).content)
    ask = {"messages": [{"role": "user", "content": "Tell me."}], "seed": 1, "candidates": 6}
    plain = served.post("/v1/chat/completions", json=ask).json()
    assert plain["choices"][0]["message"]["content"] == found.result.text
    assert MARKER not in str(plain)


def test_several_models_have_each_their_own_sliders():
    guards = {"wide": make_guard(ANSWERS, candidates=9), "calm": make_guard({"Always calm.": 1.0}, candidates=5)}
    served = TestClient(create_app(guards, ui=True))
    page = served.get("/ui").text
    assert re.findall(r'"model":"(\w+)"', page) == ["wide", "calm"]
    assert re.findall(r'"name":"candidates"[^}]*"value":([\d.]+)', page) == ["9.0", "5.0"]
    found = Document.model_validate_json(served.post("/ui/trace", json={**ASK, "model": "calm"}).content)
    assert (found.model, found.result.text) == ("calm", "Always calm.")
    assert served.post("/ui/trace", json={**ASK, "model": "other"}).status_code == 404


def test_the_page_states_its_policy_and_holds_no_answer():
    page = client(keys=["k"]).get("/ui")  # without a key: it asks for one
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert re.search(r'"keyed":true', page.text)


def test_keys_limits_and_the_gate_hold_for_it():
    keyed = client(keys=["right"])
    assert keyed.post("/ui/trace", json=ASK).status_code == 401
    assert keyed.post("/ui/trace", json=ASK, headers={"authorization": "Bearer right"}).status_code == 200
    tight = client(limits=Limits(candidates=10, tries=3, body_bytes=500, prompt_tokens=200))
    for field, value in (("candidates", 11), ("tries", 4)):
        refused = tight.post("/ui/trace", json={**ASK, field: value})
        assert refused.status_code == 400
        assert f"this server allows at most {value - 1}" in refused.json()["error"]["message"]
    assert tight.post("/ui/trace", json={**ASK, "prompt": "x" * 600}).status_code == 413
    assert tight.post("/ui/trace", json={**ASK, "prompt": "x" * 300}).status_code == 400
    assert client(limits=Limits(memory_bytes=1000)).post("/ui/trace", json=ASK).status_code in (400, 503)
    served = client()
    for _ in range(3):
        assert served.post("/ui/trace", json={"prompt": ""}).status_code in (400, 422)
    gate = served.app.state.gate
    assert (gate.running, gate.queued) == (0, 0)
    gate.close()
    assert served.post("/ui/trace", json=ASK).status_code == 503


def test_the_sliders_stay_within_the_ceilings_and_the_budget_below_the_services_own():
    page = client(limits=Limits(candidates=12, beams=5, tries=2), budget=SafetyBudget(limit=3.0)).get("/ui").text
    data = re.search(r'id="playground">(.*?)</script>', page)[1]
    most = dict(re.findall(r'"name":"(\w+)","label":"[^"]*","least":[-\d.]+,"most":([-\d.]+)', data))
    assert (most["budget"], most["candidates"], most["beams"]) == ("3.0", "12.0", "5.0")
    served = client(budget=SafetyBudget(limit=3.0))
    refused = served.post("/ui/trace", json={**ASK, "budget": 3.1})
    assert refused.status_code == 400
    assert "give at most 3.0" in refused.json()["error"]["message"]
    tighter = served.post("/ui/trace", json={**ASK, "budget": 2.5})
    assert Document.model_validate_json(tighter.content).result.trace.costs[0].limit == 2.5


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_page_in_the_same_browser_cannot_ask(kind):
    """Such requests need no leave of the server; JSON does, and it gives none."""
    sent = client().post("/ui/trace", content='{"prompt": "Tell me."}', headers={"content-type": kind})
    assert sent.status_code == 415


def test_who_can_be_reached_by_others_needs_keys():
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.9"):
        check_reach(host, keyed=False)
    for host in ("0.0.0.0", "192.168.1.4", "::", "example.org", ""):
        check_reach(host, keyed=True)
        with pytest.raises(ConfigurationError, match="--ui shows text that did not pass"):
            check_reach(host, keyed=False)
