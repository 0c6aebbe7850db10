"""``response_format``: an answer under a schema where the guard can decode so, and else a refusal by name."""

import json
from typing import Literal

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from ig_plugins import InferenceGuard
from ig_plugins.call_options import offered
from ig_plugins.server import create_app
from ig_plugins.server.schema import SCHEMA
from tests.ig_plugins.server.thread import serving

CAN = SCHEMA in offered("http")
ASK = {"messages": [{"role": "user", "content": "How do I clean the kettle?"}], "seed": 1, "max_tokens": 60}
POINT = {
    "type": "object",
    "properties": {"tool": {"enum": ["kettle", "cup"]}, "safe": {"type": "boolean"}},
    "required": ["tool", "safe"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client():
    return TestClient(create_app(InferenceGuard.from_pretrained("tiny-alpaca", tries=4)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_a_form_is_kept_or_refused_by_name(client, kind, stream):
    wanted = {"type": kind}
    if kind == "json_schema":
        wanted["json_schema"] = {"name": "point", "strict": True, "schema": POINT}
    answer = client.post("/v1/chat/completions", json={**ASK, "response_format": wanted, "stream": stream})
    if not CAN:
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "response_format"
        return
    pytest.importorskip("llguidance")
    assert answer.status_code == 200, answer.text
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        reason = events[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = answer.json()["choices"]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    if reason == "stop":
        told = json.loads(text)
        assert isinstance(told, dict)
        assert kind == "json_object" or (set(told) == {"tool", "safe"} and told["tool"] in ("kettle", "cup"))
    else:
        assert reason in ("length", "content_filter")


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": "x"}},
        {"type": "xml"},
        {"type": ["json_object"]},
        {},
    ],
)
def test_what_is_no_form_is_refused_by_name(client, wanted):
    answer = client.post("/v1/chat/completions", json={**ASK, "response_format": wanted})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"


@pytest.mark.skipif(not CAN, reason="this guard does not decode under a schema")
def test_openais_and_langchains_clients_get_objects():
    pytest.importorskip("llguidance")
    openai, langchain = pytest.importorskip("openai"), pytest.importorskip("langchain_openai")
    guard = InferenceGuard.from_pretrained("tiny-alpaca", tries=4)

    class Point(BaseModel):
        tool: Literal["kettle", "cup"]
        safe: bool

    with serving({"tiny-alpaca": guard}) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        asked = {"model": "tiny-alpaca", "messages": ASK["messages"], "response_format": Point, "max_tokens": 100}
        parsed = client.chat.completions.parse(**asked, seed=1).choices[0].message.parsed
        assert isinstance(parsed, Point)
        with client.chat.completions.stream(**asked, seed=1) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == parsed
        model = langchain.ChatOpenAI(
            base_url=f"{url}/v1", api_key="none", model="tiny-alpaca", max_retries=0, max_tokens=100, seed=1
        )
        made = model.with_structured_output(Point, method="json_schema").invoke(ASK["messages"][0]["content"])
        assert made == parsed
