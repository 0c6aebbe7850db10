"""What was meant as a call and is none, over HTTP: nothing of a judged answer disappears."""

import json

import pytest
from fastapi.testclient import TestClient

from ig_plugins.server import create_app
from tests.kit.guards import make_guard
from tests.kit.no_grammar import no_grammar  # noqa: F401
from tests.kit.tool_caller import CALL

TOOL = {
    "type": "function",
    "function": {
        "name": "double",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}
BROKEN = [
    CALL % ("double", '{"number": 21'),
    CALL % ("double", '{"number": "21"}'),
    CALL % ("erase", '{"number": 21}') + "\n" + CALL % ("double", "{}"),
]


def asked(answer, **fields):
    client = TestClient(create_app(make_guard({answer: 1.0}, chat=True, reward=None)))
    body = {"messages": [{"role": "user", "content": "21?"}], "tools": [TOOL], "max_tokens": 200, **fields}
    found = client.post("/v1/chat/completions", json=body)
    assert found.status_code == 200, found.text
    return found


def streamed(found, index=0):
    """Content, finish reason and report of one answer of a stream."""
    events = [json.loads(line[6:]) for line in found.text.splitlines() if line.startswith("data: {")]
    mine = [(event, choice) for event in events for choice in event["choices"] if choice["index"] == index]
    assert not any(choice["delta"].get("tool_calls") for _, choice in mine)
    last, choice = mine[-1]
    report = last.get("inference_guard") or choice.get("inference_guard")
    return "".join(choice["delta"].get("content") or "" for _, choice in mine), choice["finish_reason"], report


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("words", ["", "Let me see."])
@pytest.mark.parametrize("broken", BROKEN)
def test_an_invalid_call_is_shown_and_never_as_a_call(words, broken):
    answer = f"{words} {broken}".strip()
    (choice,) = (body := asked(answer).json())["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["refusal"] is None
    shown = (choice["message"]["content"], choice["finish_reason"], body["inference_guard"])
    for content, reason, report in (shown, streamed(asked(answer, stream=True))):
        assert reason == "stop"
        written = "".join(call["text"] for call in report["invalid_tool_calls"])
        assert (content, written) == (words or answer, broken)
        assert all(call["problem"] for call in report["invalid_tool_calls"])


@pytest.mark.usefixtures("no_grammar")
def test_so_it_is_with_several_answers():
    for choice in asked(BROKEN[1], n=2).json()["choices"]:
        assert choice["message"]["content"] == BROKEN[1]
        assert choice["inference_guard"]["invalid_tool_calls"][0]["text"] == BROKEN[1]
    found = asked(BROKEN[1], n=2, stream=True)
    for index in range(2):
        content, _, report = streamed(found, index)
        assert content == report["invalid_tool_calls"][0]["text"] == BROKEN[1]


def test_with_the_library_there_is_none():
    """A call that the model begins of itself is held to its tool while it is sampled."""
    pytest.importorskip("llguidance")
    for broken in BROKEN:
        (choice,) = (body := asked(broken).json())["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert not body["inference_guard"]["invalid_tool_calls"]
        for call in choice["message"]["tool_calls"]:
            assert isinstance(json.loads(call["function"]["arguments"])["number"], int)
