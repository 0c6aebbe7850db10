"""``serve`` as an operator runs it: where it listens, what it says when, and what it cannot do."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ig_plugins import InferenceGuard


def test_a_port_that_is_taken_is_told_before_weights_are_loaded(run, monkeypatch):
    monkeypatch.setattr(InferenceGuard, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = run("serve", "--port", taken.getsockname()[1])
    assert code == 2
    assert "Address already in use" in err
    assert "serving" not in out + err


def test_it_serves_where_it_says_with_keys_and_a_log_and_ends_in_order(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    paths = os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in sys.path if path))
    line = ["serve", "--port", "0", "--api-keys", str(keys), "--access-log", "--max-candidates", "20"]
    line += ["--candidates", "8", "--max-tokens", "24", "--max-answer-tokens", "30"]
    server = subprocess.Popen(
        [sys.executable, "-c", "from ig_plugins.cli import main; main()", *line],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        while not (found := re.search(r"serving tiny-beaver at (http://127.0.0.1:\d+)", server.stderr.readline())):
            assert server.poll() is None
        ask = {"messages": [{"role": "user", "content": "How do I clean the kettle?"}], "candidates": 21}
        with httpx.Client(base_url=found[1], timeout=60) as client:
            assert client.post("/v1/chat/completions", json=ask).status_code == 401
            client.headers["authorization"] = "Bearer a-key"
            refused = client.post("/v1/chat/completions", json=ask)
            assert (refused.status_code, "at most 20" in refused.text) == (400, True)
            refused = client.post("/v1/chat/completions", json={**ask, "candidates": 8, "max_tokens": 31})
            assert (refused.status_code, "at most 30" in refused.text) == (400, True)
            del ask["candidates"]
            answer = client.post("/v1/chat/completions", json=ask)
            assert answer.status_code == 200
            assert answer.json()["usage"]["completion_tokens"] <= 24
            assert max(block["candidates"] for block in answer.json()["inference_guard"]["blocks"]) <= 8
        server.send_signal(signal.SIGTERM)
        heard = server.stderr.read()
        assert server.wait(20) == 0
        logged = [json.loads(each) for each in heard.splitlines() if each.startswith("{")]
        assert [each["status"] for each in logged] == [401, 400, 400, 200]
        assert "kettle" not in heard
        assert "Traceback" not in heard
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def test_a_judge_that_cannot_be_used_is_named_before_there_are_clients(run, tmp_path, monkeypatch):
    (tmp_path / "rules.py").write_text(
        "def good(prompts, answers): return [-1.0] * len(answers)\ndef bad(p, a): return 1.0\n"
    )
    models = {
        name: f'[models.{name}]\nmodel = "tiny-beaver"\ncost_model = "./rules.py:{name}"\n' for name in ("good", "bad")
    }
    (tmp_path / "guard.toml").write_text("\n".join(models.values()))
    monkeypatch.setattr("ig_plugins.server.serve", lambda app, **_: None)
    code, _, err = run("serve", "--port", 0, "--config", tmp_path / "guard.toml")
    assert code == 0
    (warning,) = (line for line in err.splitlines() if "warning" in line)
    assert re.search(r"warning: bad failed at a first question: judge '.*rules.py:bad' returned float", warning)


def test_every_part_of_a_guard_can_be_said_on_the_line(run, monkeypatch):
    """What a configuration says of a model, and what `generate` takes."""
    served = []
    monkeypatch.setattr("ig_plugins.server.serve", lambda app, **_: served.extend(app.state.models.served))
    parts = ("--no-critic", "--prompt-format", "plain", "--dtype", "bfloat16")
    assert run("serve", "--port", 0, *parts)[0] == 0
    components = served[0].guard.components
    assert components.critic is None
    assert components.prompt_format.name == "plain"
    assert str(components.policy.engine.dtype) == "torch.bfloat16"
    code, _, err = run("serve", "--port", 0, "--model", "vllm+http://127.0.0.1:1/x", "--revision", "v1")
    assert code == 2
    assert "revision is 'v1', but the server decides which weights it holds" in err


@pytest.mark.parametrize("command", [("generate", "Hi"), ("serve",), ("train-critic", "x.txt", "--out", "x")])
def test_a_dtype_that_is_none_is_refused_with_those_that_are(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("Hello\n")
    code, _, err = run(*command, "--dtype", "int3")
    assert code == 2
    assert "dtype is 'int3'; give one such as 'float32'" in err
