"""A server's address is a model's name at every door."""

import json

import pytest
from typer.testing import CliRunner

from critic_models import bundled
from ig_plugins.cli import app
from ig_plugins.server import config
from tests.ig_plugins.remote.conftest import QUESTION, TOKENIZER

JUDGES = {"cost_model": "bundled:tiny-cost", "reward_model": "bundled:tiny-reward"}
FIELDS = {"tokenizer": TOKENIZER, "prompt_format": "beaver", "candidates": 4, "beams": 2, "max_tokens": 12, **JUDGES}
JUDGE = bundled.path("tiny-cost")
COMMON = [
    "--tokenizer", TOKENIZER, "--cost-model", JUDGES["cost_model"], "--reward-model", JUDGES["reward_model"],
]  # fmt: skip


def run(*command):
    done = CliRunner().invoke(app(), [str(each) for each in command])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def test_langchain(engine):
    langchain = pytest.importorskip("langchain_inferenceguard")
    model = langchain.ChatInferenceGuard(model=engine().address, **FIELDS)
    assert model.invoke(QUESTION).content
    assert "".join(chunk.content for chunk in model.stream(QUESTION))


async def test_llama_index(engine):
    llm = pytest.importorskip("llama_index.llms.inferenceguard").InferenceGuardLLM(model=engine().address, **FIELDS)
    assert llm.complete(QUESTION).text
    assert (await llm.acomplete(QUESTION)).text
    assert llm.metadata.context_window


def test_the_command_generate(engine):
    found = run(
        "generate",
        QUESTION,
        "--model",
        engine().address,
        *COMMON,
        "--max-tokens",
        12,
        "--load-option",
        "page=0",
        "--json",
    )
    assert json.loads(found.stdout)["text"]


def test_the_command_evaluate(engine, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{QUESTION}\nHow do I bake bread?\n")
    run(
        "evaluate", "--out", tmp_path / "out", "--model", engine().address, *COMMON, "--methods", "base,inferenceguard",
        "--prompts", prompts, "--seeds", 1, "--candidates", "4", "--max-tokens", 12, "--judge", JUDGE
    )  # fmt: skip
    rows = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(rows) >= 4


def test_the_command_calibrate(engine, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"How do I clean window number {number}?" for number in range(8)))
    done = CliRunner().invoke(app(), [str(each) for each in (
        "calibrate", "--out", tmp_path / "c.json", "--model", engine().address, *COMMON, "--prompts", prompts,
        "--candidates", 4, "--max-tokens", 12, "--judge", JUDGE, "--judge-limit", 5, "--target", 0.5,
        "--limits", 5, "--pilot", 2, "--load-option", "version=tiny-1",
    )])  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    certificate = json.loads((tmp_path / "c.json").read_text())
    assert certificate["identity"]["policy"]["model"]["version"] == "tiny-1"
    (table,) = config.read(tmp_path / "c.serve.toml").models.values()
    assert table.load().generate(QUESTION).certified, "what it leaves for serve knows the tokenizer and the version"


def test_the_server(engine):
    from fastapi.testclient import TestClient

    from ig_plugins import InferenceGuard
    from ig_plugins.server import create_app

    client = TestClient(create_app(InferenceGuard.from_pretrained(engine().address, **FIELDS)))
    ask = {"messages": [{"role": "user", "content": QUESTION}]}
    assert client.post("/v1/chat/completions", json=ask).json()["choices"][0]["message"]["content"]
    several = client.post("/v1/chat/completions", json={**ask, "n": 3}).json()["choices"]
    assert [choice["index"] for choice in several] == [0, 1, 2]
    with client.stream("POST", "/v1/chat/completions", json={**ask, "stream": True}) as streamed:
        assert "[DONE]" in streamed.read().decode()


def test_serve_takes_an_address(engine, monkeypatch):
    from ig_plugins import server as service

    served = []
    monkeypatch.setattr(service, "serve", lambda app, **rest: served.append(app))
    run("serve", "--model", engine().address, *COMMON, "--port", 0, "--load-option", "attempts=2")
    assert served


def test_load_options_that_are_none_are_refused():
    done = CliRunner().invoke(app(), ["generate", "x", "--load-option", "page"])
    assert "write NAME=VALUE" in str(done.exception) + done.output


def test_a_guard_travels_as_the_names_that_it_was_loaded_from(engine):
    import pickle

    from ig_plugins import InferenceGuard

    guard = InferenceGuard.from_pretrained(engine().address, **FIELDS)
    again = pickle.loads(pickle.dumps(guard))
    assert again.components.policy.tree.address == guard.components.policy.tree.address
    assert again.generate(QUESTION).text


def test_a_configuration_of_the_server_may_name_an_address(engine, tmp_path):
    file = tmp_path / "guard.toml"
    options = {name: value for name, value in FIELDS.items() if name in ("candidates", "beams", "max_tokens")}
    file.write_text(
        f'[models.far]\nmodel = "{engine().address}"\ntokenizer = "{TOKENIZER}"\nprompt_format = "beaver"\n'
        + "".join(f'{name} = "{value}"\n' for name, value in JUDGES.items())
        + f"load_options = {{ attempts = 2 }}\noptions = {{ {', '.join(f'{n} = {v}' for n, v in options.items())} }}\n"
    )
    table = config.read(file).models["far"]
    table.check()
    assert table.load().generate(QUESTION).text
