"""One file says what is served; the environment overrides it, and what is not known is refused with what was meant."""

import json
import re
import sys
from pathlib import Path

import pytest

from ig_plugins.errors import ConfigurationError, InferenceGuardError
from ig_plugins.server.config import read
from ig_plugins.server.served import Models

ROOT = Path(__file__).parents[3]
WHOLE = """
[server]
host = "0.0.0.0"
port = 9000
api_keys = "keys.txt"
access_log = true
cors = ["https://chat.example.org"]

[limits]
candidates = 20
timeout = 30

[models.small]
model = "tiny-beaver"
aliases = ["gpt-4o-mini"]

[models.small.options]
candidates = 8
max_tokens = 24
budget = { limit = 5.0, accounting = "cumulative" }
selection = "hedged"

[models."with-rule"]
model = "tiny-alpaca"
cost_model = ["tiny-alpaca", "./rules.py:rude"]
critic = false
options = { candidates = 4, beams = 2 }
"""
RULES = """
def rude(prompts, responses):
    return [1.0 if "stupid" in text else -1.0 for text in responses]
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "guard.toml").write_text(WHOLE)
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "keys.txt").write_text("one\n\ntwo\n")
    return tmp_path


def test_a_file_says_everything(place, monkeypatch):
    monkeypatch.chdir("/")
    config = read(place / "guard.toml")
    assert (config.server.host, config.server.port, config.server.access_log) == ("0.0.0.0", 9000, True)
    assert config.keys == ["one", "two"]
    assert (config.limits.candidates, config.limits.timeout, config.limits.beams) == (20, 30, 64)
    assert config.aliases == {"gpt-4o-mini": "small"}
    for table in config.models.values():
        table.check()
    guards = {name: table.load() for name, table in config.models.items()}
    small, ruled = guards["small"], guards["with-rule"]
    assert (small.search.candidates, small.search.max_new_tokens, small.search.selection) == (8, 24, "hedged")
    assert small.budget.limit == 5.0
    assert list(ruled.components.costs) == ["tiny-cost", f"{place}/rules.py:rude"]
    assert ruled.components.critic is None
    models = Models(guards, aliases=config.aliases)
    assert models.find("gpt-4o-mini").guard is small
    one, two = (each.statement() for each in models.served)
    assert "cost tiny-cost, reward tiny-reward, critic" in one
    assert "budget cumulative 5, no certificate" in one
    assert "rules.py:rude" in two
    assert "critic" not in two
    assert len({each.fingerprint for each in models.served}) == 2


def test_the_configuration_in_the_docs_is_one(tmp_path):
    told = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.S)[1]
    (tmp_path / "guard.toml").write_text(told)
    config = read(tmp_path / "guard.toml")
    assert list(config.models) == ["small", "ruled"]
    config.models["small"].check()


def test_the_environment_overrides_the_file_and_options_override_both(place):
    environment = {
        "INFERENCEGUARD__SERVER__PORT": "9001",
        "INFERENCEGUARD__SERVER__HOST": "::1",
        "INFERENCEGUARD__LIMITS__CANDIDATES": "30",
        "INFERENCEGUARD__MODELS__WITH_RULE__OPTIONS__CANDIDATES": "6",
        "INFERENCEGUARD__MODELS__SMALL__ALIASES": '["other"]',
        "INFERENCEGUARD_DEBUG": "1",
    }
    config = read(place / "guard.toml", environment=environment, said={"limits": {"candidates": 40}})
    assert (config.server.port, config.server.host, config.limits.candidates) == (9001, "::1", 40)
    assert config.models["with-rule"].options["candidates"] == 6
    assert config.aliases == {"other": "small"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[sever]\n", r"sever is not known. Did you mean 'server'"),
        ("[server]\nprot = 1\n", r"server.prot is not known. Did you mean 'port'"),
        ("[limits]\ncandidats = 1\n", r"limits.candidats is not known. Did you mean 'candidates'"),
        (
            '[models.a]\nmodel = "tiny-beaver"\ncost_modl = "x"\n',
            r"models.a.cost_modl is not known. Did you mean 'cost_model'",
        ),
        ('[models.a]\nmodle = "tiny-beaver"\n', r"models.a.modle is not known. Did you mean 'model'"),
        ('[models.a]\nmodel = "tiny-beaver"\noptions = { beam = 1 }\n', r"'beam' is no option. Did you mean 'beams'"),
        ('[models.a]\nmodel = "tiny-beaver"\noptions = { beams = 99 }\n', r"beams is 99"),
        ('[models.a]\nmodel = "tiny-beaver"\noptions = { budget = { limt = 1 } }\n', r"limt"),
        ('[models.a]\nmodel = "tiny-beaver"\ncritic = true\n', r"critic is True: give a folder, a hub id, or false"),
        ('[models.a]\nmodel = "tiny-bever"\n', r"'tiny-bever' is no preset"),
        ("[server]\nport = 70000\n", r"server.port is 70000"),
        ("[limits]\ncandidates = 0\n", r"limits.candidates is 0"),
        ("", r"no model is named; write a table \[models.NAME\]"),
        ("[models]\n", r"models"),
        ("port = 1\n", r"port is not known"),
        ("[server\n", r"is not TOML"),
        ('[models.a]\nmodel = "tiny-beaver"\ncertificate = "none.json"\n', r"no certificate at"),
    ],
)
def test_what_is_not_known_or_not_allowed_is_refused_before_weights_are_read(said, told, tmp_path, monkeypatch):
    from ig_plugins.guard import policies

    monkeypatch.setattr(policies, "load_policy", lambda *_, **__: pytest.fail("weights were read"))
    path = tmp_path / "guard.toml"
    path.write_text(said if "models" in said or not said else said + '[models.a]\nmodel = "tiny-beaver"\n')

    def start():
        for table in read(path).models.values():
            table.check()
            table.load()

    with pytest.raises(InferenceGuardError, match=told):
        start()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("INFERENCEGUARD__LIMITS__CANDIDATS", "limits.candidats is not known. Did you mean 'candidates'"),
        ("INFERENCEGUARD__PORT", "port is not known"),
        ("INFERENCEGUARD__SERVER__PORT__X", "INFERENCEGUARD__SERVER__PORT__X: PORT is no table"),
        ("INFERENCEGUARD__MODELS__OTHER__DEVICE", "models.other.model: Field required"),
    ],
)
def test_variables_that_lead_nowhere_are_refused(name, told, place):
    with pytest.raises(ConfigurationError, match=told):
        read(place / "guard.toml", environment={name: "1"})


def test_a_fault_is_said_of_what_brought_it(place):
    name, path = "INFERENCEGUARD__LIMITS__CANDIDATES", place / "guard.toml"
    with pytest.raises(ConfigurationError, match=f"^{name}: limits.candidates is 'many'"):
        read(path, environment={name: "many"})
    with pytest.raises(ConfigurationError, match=r"^serve: limits.candidates is 0"):
        read(path, environment={name: "2"}, said={"limits": {"candidates": 0}})
    path.write_text('[limits]\nbeams = 0\n[models.a]\nmodel = "tiny-beaver"\n')
    with pytest.raises(ConfigurationError, match=r"guard.toml: limits.beams is 0"):
        read(path, environment={name: "2"})


@pytest.mark.parametrize(
    "second", ['[models.b]\nmodel = "tiny-alpaca"', '[models.c]\nmodel = "tiny-alpaca"\naliases = ["b"]']
)
def test_a_name_that_two_models_have_is_refused(second, tmp_path):
    """Which of them answered was nobody's decision."""
    (tmp_path / "guard.toml").write_text(f'[models.a]\nmodel = "tiny-beaver"\naliases = ["b"]\n{second}\n')
    with pytest.raises(ConfigurationError, match=r"models: 'b' names two models, or one twice; give each name"):
        read(tmp_path / "guard.toml")


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read(path)
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="it is no text"):
        read(tmp_path / "latin.toml")
    (tmp_path / "guard.toml").write_text('server.api_keys = "none"\nmodels.a.model = "tiny-beaver"\n')
    with pytest.raises(ConfigurationError, match="api_keys 'none' cannot be read"):
        read(tmp_path / "guard.toml").keys  # noqa: B018


@pytest.mark.parametrize(
    "option",
    [
        ["--beams", "2"],
        ["--no-critic"],
        ["--load-option", "seeds=true"],
        ["--prompt-format", "plain"],
        ["--dtype", "auto"],
    ],
)
def test_a_model_named_beside_the_file_is_refused(option, place, capsys, monkeypatch):
    from ig_plugins import cli

    monkeypatch.setattr(sys, "argv", ["inferenceguard", "serve", "--config", str(place / "guard.toml"), *option])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"{option[0]} says what is served, and so does --config" in capsys.readouterr().err


def test_what_calibrate_writes_is_served_as_it_is(tmp_path, monkeypatch, capsys):
    """With a budget, candidates and a length of its own, from another folder."""
    from fastapi.testclient import TestClient

    from ig_plugins import cli
    from ig_plugins.server import create_app

    out = tmp_path / "tight.json"
    line = ["calibrate", "--out", str(out), "--limit", "30", "--limits", "4", "--pilot", "0", "--target", "0.4"]
    line += ["--model", "tiny-alpaca", "--candidates", "6", "--max-tokens", "20"]
    monkeypatch.setattr(sys, "argv", ["inferenceguard", *line])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "inferenceguard serve --config" in capsys.readouterr().err
    monkeypatch.chdir("/")
    config = read(tmp_path / "tight.serve.toml")
    guards = {name: table.load() for name, table in config.models.items()}
    app = create_app(guards, limits=config.limits)
    assert "certified: at most 0.4 unsafe" in app.state.models.served[0].statement()
    client = TestClient(app)
    ask = {"model": "tiny-alpaca", "messages": [{"role": "user", "content": "How do I clean the kettle?"}]}
    answer = client.post("/v1/chat/completions", json=ask)
    assert answer.json()["inference_guard"]["certified"] is True
    assert json.loads(answer.headers["x-inference-guard-certified"]) is True
    other = client.post("/v1/chat/completions", json={**ask, "candidates": 7})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "OutsideCertificateError")


def test_what_calibrate_writes_has_the_certified_limit_of_each_cost_model(tmp_path, monkeypatch):
    """`--limits` said once for each cost model; the preset of one is given a second one here."""
    from critic_models.judges.callables import CallableJudge
    from ig_plugins import InferenceGuard, cli

    def calm(prompts, responses):
        return [0.0 for _ in responses]

    costs = [CallableJudge(calm, name=name, version="1") for name in ("first", "second")]
    loaded = InferenceGuard.from_pretrained
    monkeypatch.setattr(InferenceGuard, "from_pretrained", lambda *a, **k: loaded(*a, **{**k, "cost_model": costs}))
    out = tmp_path / "two.json"
    line = ["calibrate", "--out", str(out), "--limit", "6", "--pilot", "0", "--target", "0.9", "--confidence", "0.6"]
    line += ["--limits", "1,2", "--limits", "3,4", "--candidates", "4", "--max-tokens", "8"]
    monkeypatch.setattr(sys, "argv", ["inferenceguard", *line])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    (table,) = read(tmp_path / "two.serve.toml").models.values()
    assert [each["limit"] for each in table.options["budget"]] == [2.0, 4.0]
