"""Keys, request ids and the access log."""

import json
import logging

import pytest
from fastapi.testclient import TestClient

from ig_plugins.guard import prompt_request
from ig_plugins.server import Limits, create_app
from ig_plugins.server.config import read
from tests.kit.guards import make_guard

ASK = {"messages": [{"role": "user", "content": "A secret question?"}], "seed": 1}


@pytest.fixture(scope="module")
def guard():
    return make_guard({"A secret answer.": 1.0})


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Basic first", 401),
        ("first", 401),
        ("Bearer fir", 401),
        ("Bearer first", 200),
        ("bearer second", 200),
    ],
)
def test_a_key_is_needed_where_there_are_keys(guard, header, status):
    client = TestClient(create_app(guard, keys=["first", "second"]))
    headers = {} if header is None else {"authorization": header}
    answer = client.post("/v1/chat/completions", json=ASK, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "wrong" not in answer.text
    assert client.get("/v1/models", headers=headers).status_code == status
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_a_key_may_have_letters_beyond_ascii_and_the_file_a_mark_of_windows(guard, tmp_path):
    """Clients send the bytes of UTF-8, which servers read as other letters."""
    (tmp_path / "keys.txt").write_bytes("\ufeffschlüssel\r\n".encode())
    (tmp_path / "guard.toml").write_text('server.api_keys = "keys.txt"\nmodels.a.model = "tiny-beaver"\n')
    client = TestClient(create_app(guard, keys=read(tmp_path / "guard.toml").keys))
    for key, status in (("schlüssel", 200), ("schlussel", 401), ("schlÃ¼ssel", 401)):
        headers = {"authorization": f"Bearer {key}".encode()}
        assert client.get("/v1/models", headers=headers).status_code == status


def test_every_answer_has_the_id_that_the_client_gave_or_a_new_one(guard):
    client = TestClient(create_app(guard, keys=["first"]))
    ids = []
    for path in ("/health", "/v1/models", "/nowhere"):
        assert client.get(path, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        ids.append(client.get(path).headers["x-request-id"])
    assert len(set(ids)) == 3
    forged = client.get("/health", headers={"x-request-id": 'a", "status": "200'}).headers["x-request-id"]
    assert "status" not in forged


def test_the_log_has_a_json_line_a_request_and_no_text(guard, caplog):
    client = TestClient(create_app(guard))
    with caplog.at_level(logging.INFO, logger="inferenceguard.access"):
        client.post("/v1/chat/completions", json=ASK, headers={"x-request-id": "one"})
        client.post("/v1/chat/completions", json={**ASK, "stream": True})
        client.post("/v1/chat/completions", json={"messages": "A secret question?"})
        client.get("/v1/nothing?q=secret")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "inferenceguard.access"]
    assert [line["status"] for line in lines] == [200, 200, 400, 404]
    assert lines[0]["id"] == "one"
    assert all(line["seconds"] >= 0 and line["bytes"] > 0 for line in lines)
    assert "ecret" not in caplog.text


def test_errors_have_openais_form_and_do_not_repeat_the_request(guard):
    client = TestClient(create_app(guard))
    secret = "xyzzy" * 10
    for body in ({**ASK, "temperature": secret}, {**ASK, secret: 1}, {"messages": secret}, [secret], secret):
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert set(error) == {"type", "message", "param", "code"}
        assert error["message"].count(secret) <= 1  # the name of an unknown field, and never a value
    assert client.get("/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_a_prompt_is_encoded_once_whether_it_streams_or_not(guard, monkeypatch):
    client = TestClient(create_app(guard, limits=Limits(prompt_tokens=500)))
    form = type(guard.components.prompt_format)
    real, seen = form.encode, []
    monkeypatch.setattr(form, "encode", lambda *given, **more: (seen.append(1), real(*given, **more))[1])
    for stream in (False, True):
        assert client.post("/v1/chat/completions", json={**ASK, "stream": stream}).status_code == 200
    assert len(seen) == 2
    long = {"messages": [{"role": "user", "content": "x" * 600}]}
    answer = client.post("/v1/chat/completions", json=long)
    assert answer.status_code == 400
    assert "prompt_tokens is" in answer.json()["error"]["message"]


def test_the_policy_weighs_no_tools_for_a_prompt_that_is_too_long(monkeypatch):
    weighed = []
    monkeypatch.setattr(prompt_request, "gains", lambda *given: weighed.append(given) or {"double": -9.0})
    served = make_guard({"Hello.": 1.0}, chat=True, reward=None, tool_threshold=1.0)
    client = TestClient(create_app(served, limits=Limits(prompt_tokens=500)))
    tool = {"type": "function", "function": {"name": "double", "parameters": {"type": "object"}}}
    for text, status in (("Hi", 200), ("x" * 600, 400)):
        body = {"messages": [{"role": "user", "content": text}], "tools": [tool]}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, answer.text
    assert len(weighed) == 1
    assert "prompt_tokens is" in answer.json()["error"]["message"]
