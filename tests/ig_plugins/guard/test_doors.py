"""One declaration of the options, `CallOptions`, and no door that says otherwise."""

import inspect
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from typer.testing import CliRunner
from typing_extensions import Unpack

from critic_models.safety import SafetyBudget
from ig_plugins import presets
from ig_plugins.call_options import WITHHELD, CallOptions, offered
from ig_plugins.cli import app
from ig_plugins.cli.evaluate import evaluate
from ig_plugins.cli.generate import generate
from ig_plugins.cli.serve import serve
from ig_plugins.cli.trace import trace
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.adapter_fields import LOADING, SETTINGS, GuardFields
from ig_plugins.guard.options import Options
from ig_plugins.guard.options_table import table
from ig_plugins.search import SearchConfig
from ig_plugins.server import create_app
from ig_plugins.server.openai_fields import IGNORED, USUAL
from ig_plugins.server.schema import ChatRequest
from tests.kit.guards import make_guard

ROOT = Path(__file__).parents[3]
OLD = "calm_candidates is now narrow_candidates; the old name goes with 0.3"
NAMES = set(get_type_hints(CallOptions))
KINDS = get_type_hints(CallOptions)

# A value other than the default one for every option; a new option needs one here.
OTHER: dict[str, Any] = {
    "budget": -1.0, "candidates": 7, "beams": 3, "block_tokens": 4, "max_tokens": 21, "tries": 3, "temperature": 0.9,
    "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "retry_penalty": 1.0, "stratified": False,
    "selection": "hedged", "adaptive": "on", "narrow_candidates": 5, "schedule": [6], "max_lag": 2, "seed": 5,
    "stop": ["x"], "timeout": 9.0, "judge_timeout": 9.0, "on_block": "empty", "refusal": "No.", "raw_prompt": True,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "none", "logits_processors": [lambda ids, logits: logits], "max_new_tokens": 22,
    "trace": True,
    "json_schema": '{"type": "object"}', "regex": "[a-z]+", "choices": ["yes", "no"], "grammar": 'start: "x"',
    "tool_threshold": 0.5,
    "stop_token_ids": [7], "last_assistant": "prefill", "chat_template_kwargs": {"enable_thinking": False},
}  # fmt: skip

# Of OpenAI's request, beside a guard's options.
OPENAI = {
    "messages", "model", "stream", "stream_options", "n", "max_completion_tokens", "parallel_tool_calls",
    "response_format", *IGNORED, *USUAL,
}  # fmt: skip


def literals(kind: Any) -> set[str]:
    """The words that a type allows."""
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    return {word for part in get_args(kind) for word in literals(part)}


def test_the_declaration_names_what_options_and_search_check_and_nothing_else():
    checked = {*Options.model_fields, *SearchConfig.model_fields} - {"search", "budgets"}
    assert checked | {"budget", "max_tokens"} == NAMES
    assert set(OTHER) == NAMES


def test_the_declaration_allows_the_words_and_kinds_that_are_checked():
    hints = {**get_type_hints(Options), **get_type_hints(SearchConfig)}
    names = NAMES - {"budget", "max_tokens", "stop", "tools", "tool_choice", "logits_processors", "schedule"}
    for name in names - {"stop_token_ids", "json_schema", "choices"}:
        checked, declared = hints[name], KINDS[name]
        assert declared == (checked if type(None) in get_args(checked) else checked | None), name


def test_every_option_reaches_a_guard():
    standard = make_guard().options
    for name, value in OTHER.items():
        assert standard.updated(**{name: value}) != standard, name


@pytest.mark.parametrize(
    "call", ["generate", "agenerate", "stream", "astream", "with_options", "request", "from_pretrained"]
)
def test_every_call_has_the_typed_keywords(call):
    function = inspect.unwrap(getattr(InferenceGuard, call))
    kinds = get_type_hints(getattr(function, "__func__", function))
    last = list(inspect.signature(function).parameters.values())[-1]
    assert last.kind is inspect.Parameter.VAR_KEYWORD
    assert kinds[last.name] == Unpack[CallOptions]


def test_the_adapters_fields_are_the_declared_ones_by_name_and_type():
    own = set(GuardFields.model_fields) - {*LOADING, "guard_token"}
    assert own == NAMES - set(WITHHELD["fields"]) == set(SETTINGS)
    kinds = get_type_hints(GuardFields)
    told = {"stop": list[str] | None, "stop_token_ids": list[int] | None, "schedule": tuple[int, ...] | None}
    for name in own:
        assert kinds[name] == told.get(name, KINDS[name]), name
        assert GuardFields.model_fields[name].default is None


def test_every_field_reaches_a_call():
    for name in SETTINGS:
        fields = GuardFields(model="tiny-beaver", **{name: OTHER[name]})
        called = fields.call_options()
        assert set(called) == {name}
        assert make_guard().with_options(**called).options == make_guard().with_options(**{name: OTHER[name]}).options


@pytest.mark.parametrize("door", ["langchain text", "langchain chat", "llama_index"])
def test_the_frameworks_classes_have_them(door):
    if door == "llama_index":
        kind = pytest.importorskip("llama_index.llms.inferenceguard").InferenceGuardLLM
    else:
        package = pytest.importorskip("langchain_inferenceguard")
        kind = package.InferenceGuardLLM if "text" in door else package.ChatInferenceGuard
    for name in SETTINGS:
        made = kind(model="tiny-beaver", **{name: OTHER[name]})
        assert made.call_options().keys() == {name}
        with pytest.raises(ValidationError, match=r"no model is named; give model=, which is a preset .*tiny-beaver"):
            kind(**{name: OTHER[name]})


def test_the_http_request_has_every_option_that_is_not_withheld():
    own = set(ChatRequest.model_fields) - OPENAI
    assert own == NAMES - set(WITHHELD["http"]) == set(offered("http"))
    messages = [{"role": "user", "content": "x"}]
    guard = make_guard()
    for name in own:
        asked = ChatRequest.model_validate_json(json.dumps({"messages": messages, name: OTHER[name]}))
        given = guard.with_options(**asked.options(guard.options.budgets)).options
        assert given == guard.with_options(**{name: OTHER[name]}).options, name
    for name in set(WITHHELD["http"]) - {"logits_processors"}:
        with pytest.raises(ValidationError, match=name):
            ChatRequest.model_validate({"messages": messages, name: OTHER[name]})
    for name in own:
        assert literals(KINDS[name]) == literals(ChatRequest.model_fields[name].annotation), name


def test_a_client_may_tighten_the_budget_and_not_loosen_it():
    guard = make_guard({"Fine.": 1.0}, budget=SafetyBudget(limit=2.0, accounting="worst"))
    client = TestClient(create_app(guard))
    ask = {"messages": [{"role": "user", "content": "How?"}]}
    for budget in (2.0, 1, [1.5]):
        assert client.post("/v1/chat/completions", json={**ask, "budget": budget}).status_code == 200
    for budget in (2.1, [3.0], [1.0, 1.0], 1e308):
        for stream in (False, True):
            refused = client.post("/v1/chat/completions", json={**ask, "budget": budget, "stream": stream})
            assert refused.status_code == 400, budget
    assert "give at most 2.0" in client.post("/v1/chat/completions", json={**ask, "budget": 3}).text
    nan = json.dumps({**ask, "budget": float("nan")})
    assert client.post("/v1/chat/completions", content=nan).status_code in (400, 422)


@pytest.mark.parametrize(
    ("command", "without"),
    [
        (generate, set()),
        (serve, set()),
        (trace, {"on_block"}),  # its page shows the refusal
        (evaluate, {"seed", "stop", "raw_prompt", "on_block", "refusal"}),  # all methods are asked alike
    ],
)
def test_a_command_has_every_option_that_is_not_withheld(command, without):
    assert NAMES - set(WITHHELD["cli"]) - without <= set(inspect.signature(command).parameters)


def test_the_command_line_hands_every_option_on(monkeypatch):
    given = {}

    class Stop(Exception):
        pass

    def load(model, **options):
        given.update({name: value for name, value in options.items() if value is not None and value != []})
        raise Stop

    monkeypatch.setattr(InferenceGuard, "from_pretrained", load)
    for name in NAMES - set(WITHHELD["cli"]):
        given.clear()
        value = OTHER[name]
        flag = f"--{name.replace('_', '-')}"
        said = [flag] if value is True else [flag.replace("--", "--no-")] if value is False else None
        said = said or [part for each in (value if isinstance(value, list) else [value]) for part in (flag, str(each))]
        done = CliRunner().invoke(app(), ["generate", "x", *said])
        assert isinstance(done.exception, Stop), done.output
        assert given == {name: value}


def test_the_options_of_commands_load_no_torch():
    code = "import sys; from ig_plugins.cli import evaluate, generate, serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=100).returncode == 0


def test_what_is_withheld_has_a_reason_and_the_table_is_fresh():
    for names in WITHHELD.values():
        assert set(names) <= NAMES
        assert all(names.values())
    assert all(words for _, words in offered("http").values())
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == table(), "run: python -m ig_plugins.guard.options_table docs/options.md"


def test_the_old_name_of_an_option_works_and_warns():
    with pytest.warns(DeprecationWarning, match=OLD) as told:
        config = SearchConfig(calm_candidates=3)
    assert told[0].filename == __file__
    assert config == SearchConfig(narrow_candidates=3)
    with pytest.warns(DeprecationWarning, match=OLD):
        assert config.calm_candidates == 3
    guard = make_guard()
    with pytest.warns(DeprecationWarning, match=OLD) as told:
        changed = guard.with_options(calm_candidates=3)
    assert told[0].filename == __file__
    assert changed.search.narrow_candidates == 3
    with pytest.warns(DeprecationWarning, match=OLD):
        assert GuardFields(model="tiny-beaver").call_options(calm_candidates=3) == {"narrow_candidates": 3}
    with pytest.warns(DeprecationWarning, match=OLD):
        assert GuardFields(model="tiny-beaver", calm_candidates=3).narrow_candidates == 3
    preset = presets.read(Path(presets.__file__).with_name("tiny-beaver.toml")).model_dump()
    with pytest.warns(DeprecationWarning, match=OLD):
        assert presets.Preset(**{**preset, "search": {"calm_candidates": 3}}).search.narrow_candidates == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.with_options(narrow_candidates=3)
    with pytest.raises(ConfigurationError, match="narrow_candidates is 0"), pytest.warns(DeprecationWarning, match=OLD):
        Options().updated(calm_candidates=0)


def test_saved_identities_keep_their_hashes():
    """Certificates and interrupted evaluations hold the hash of this; a new name in it would void them all."""
    search = make_guard().identity()["search"]
    assert set(search) == set(SearchConfig.model_fields) - {"narrow_candidates"} | {"calm_candidates"}
