"""A conformance suite for `BaseLLM`, which langchain-tests does not have."""

import copy
import json
import logging

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from pydantic import ValidationError

from ig_plugins.errors import PromptError
from ig_plugins.guard.options import REFUSAL
from langchain_inferenceguard import GuardBlockedError, InferenceGuardLLM
from tests.kit.guards import MARKER

GREETING = "Good morning, and good luck with it."


def echo(prompt: str) -> dict[str, float]:
    """Answers with the last word of the last user turn."""
    turn = prompt.split("user\n")[-1].split("\nassistant")[0]
    return {f"You said {turn.split()[-1]}.": 1.0}


# ---- the ways to ask all give the same answer ----


async def test_every_way_of_asking_gives_the_same_answer(make_llm):
    llm = make_llm(fields={"seed": 1})
    answers = [
        llm.invoke("Hello"),
        await llm.ainvoke("Hello"),
        llm.batch(["Hello"])[0],
        (await llm.abatch(["Hello"]))[0],
        "".join(llm.stream("Hello")),
        "".join([piece async for piece in llm.astream("Hello")]),
        llm.generate(["Hello"]).generations[0][0].text,
        (await llm.agenerate(["Hello"])).generations[0][0].text,
        (PromptTemplate.from_template("{x}") | llm | StrOutputParser()).invoke({"x": "Hello"}),
        (ChatPromptTemplate.from_messages([("human", "{x}")]) | llm | StrOutputParser()).invoke({"x": "Hello"}),
        llm.invoke([HumanMessage("Hello")]),
    ]
    assert set(answers) == {GREETING}


async def test_astream_events_streams_the_answer(make_llm):
    events = [event async for event in make_llm().astream_events("Hello", version="v2")]
    assert "".join(e["data"]["chunk"] for e in events if e["event"] == "on_llm_stream") == GREETING
    assert events[-1]["event"] == "on_llm_end"


def test_streams_in_more_than_one_piece(make_llm):
    llm = make_llm({"One step. " * 12: 1.0}, block_tokens=8)
    assert len([piece for piece in llm.stream("Hello") if piece]) > 1


# ---- batch ----


def test_batch_is_one_request_and_keeps_order(make_llm, watcher, monkeypatch):
    llm = make_llm(echo)
    sizes = []
    original = type(llm.guard).generate
    monkeypatch.setattr(
        type(llm.guard),
        "generate",
        lambda guard, prompts, **o: sizes.append(len(prompts)) or original(guard, prompts, **o),
    )
    words = ["ant", "bee", "cat", "dog", "eel"]
    assert llm.batch([f"It is a {word}" for word in words]) == [f"You said {word}." for word in words]
    assert sizes == [5]
    sizes.clear()
    assert llm.batch([f"It is a {word}" for word in words], {"max_concurrency": 2})[3] == "You said dog."
    assert sizes == [2, 2, 1]


async def test_abatch_keeps_order(make_llm):
    assert await make_llm(echo).abatch(["an ant", "a bee"]) == ["You said ant.", "You said bee."]


def test_batch_of_nothing(make_llm):
    assert make_llm().batch([]) == []


def half_blocked(prompt: str) -> dict[str, float]:
    return {f"{MARKER} it all": 1.0} if "bad" in prompt else {GREETING: 1.0}


def test_a_blocked_prompt_is_a_value_in_a_batch(make_llm):
    assert make_llm(half_blocked).batch(["bad", "good"]) == [REFUSAL, GREETING]


async def test_a_raising_block_is_only_its_own_exception(make_llm):
    llm = make_llm(half_blocked, fields={"on_block": "raise"})
    for results in (
        llm.batch(["bad", "good"], return_exceptions=True),
        await llm.abatch(["bad", "good"], return_exceptions=True),
    ):
        assert isinstance(results[0], GuardBlockedError)
        assert results[1] == GREETING


# ---- blocked requests ----


def test_on_block_refuse_raise_empty(make_llm):
    llm = make_llm({f"First we {MARKER} it": 1.0})
    assert llm.invoke("Hello") == REFUSAL
    assert llm.invoke("Hello", on_block="empty") == ""
    with pytest.raises(GuardBlockedError) as caught:
        llm.invoke("Hello", on_block="raise")
    assert caught.value.report["blocked"] is True
    generation = llm.generate(["Hello"]).generations[0][0]
    assert generation.generation_info["finish_reason"] == "content_filter"
    assert generation.generation_info["inference_guard"]["blocked"] is True


def test_fallbacks_fire_on_a_raised_block(make_llm):
    llm = make_llm({f"{MARKER}": 1.0}, fields={"on_block": "raise"})
    assert llm.with_fallbacks([make_llm()]).invoke("Hello") == GREETING


# ---- stop, overrides, unknown names ----


def test_stop_cuts_before_the_string_wherever_a_block_ends(make_llm):
    text = "One two three four five six seven."
    for block_tokens in (1, 3, 16):
        llm = make_llm({text: 1.0}, block_tokens=block_tokens)
        assert llm.invoke("Hello", stop=["four"]) == "One two three "
        assert "".join(llm.stream("Hello", stop=["four"])) == "One two three "
    llm = make_llm({text: 1.0}, fields={"stop": ["six"]})
    assert llm.invoke("Hello") == "One two three four five "
    assert llm.invoke("Hello", stop=["two"]) == "One "
    assert llm.invoke("Hello", stop=[]) == text


def test_settings_of_one_call_reach_the_guard_and_stay_there(make_llm):
    llm = make_llm({"A long answer that goes on.": 1.0})
    assert len(llm.invoke("Hello", max_tokens=4)) == 4
    assert len(llm.bind(max_tokens=6).invoke("Hello")) == 6
    assert llm.invoke("Hello") == "A long answer that goes on."
    result = llm.generate(["Hello"], max_tokens=4).generations[0][0]
    assert result.generation_info["finish_reason"] == "length"


@pytest.mark.parametrize("call", ["invoke", "batch", "stream", "generate"])
def test_an_unknown_setting_is_an_error_before_anything_runs(make_llm, watcher, call):
    llm = make_llm(fields={"callbacks": [watcher]})
    prompt = "Hello" if call in ("invoke", "stream") else ["Hello"]
    with pytest.raises(TypeError, match="tresholds"):
        list(getattr(llm, call)(prompt, tresholds=0.1))
    assert watcher.events == []


def test_an_unknown_field_is_an_error():
    with pytest.raises(ValidationError, match="treshold"):
        InferenceGuardLLM(treshold=0.9)


def test_empty_prompts_are_refused(make_llm):
    with pytest.raises(PromptError):
        make_llm().invoke("")


# ---- the model sees what it should ----


def test_messages_are_rendered_with_the_chat_format(make_llm):
    seen = []

    def answers(prompt):
        seen.append(prompt)
        return {GREETING: 1.0}

    llm = make_llm(answers)
    llm.invoke([SystemMessage("Be kind."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("Well?")])
    llm.invoke("Hello")
    llm.invoke("Hello", raw_prompt=True)
    assert [seen[0].count(role) for role in ("system\n", "user\n", "assistant\n")] == [1, 2, 2]
    assert "user\nHello" in seen[1]
    assert seen[2] == "Hello"


# ---- callbacks, usage, metadata ----


def test_callbacks_get_every_token_and_the_end(make_llm, watcher):
    pieces = list(make_llm().stream("Hello", config={"callbacks": [watcher]}))
    tokens = watcher.named("token")
    assert [token for token, _ in tokens] == pieces
    assert all(chunk.text == token for token, chunk in tokens)
    (end,) = watcher.named("end")
    assert end.generations[0][0].text == GREETING
    assert end.generations[0][0].generation_info["finish_reason"] == "stop"


def test_a_batch_tells_every_runs_callbacks_its_own_usage(make_llm, watcher):
    make_llm(echo).batch(["an ant", "a butterfly"], config={"callbacks": [watcher]})
    ends = watcher.named("end")
    usages = [end.generations[0][0].generation_info["usage"] for end in ends]
    assert len(ends) == 2
    assert usages[0]["completion_tokens"] < usages[1]["completion_tokens"]


def test_usage_adds_up(make_llm):
    llm = make_llm(echo)
    result = llm.generate(["an ant", "a butterfly"])
    each = [generations[0].generation_info["usage"] for generations in result.generations]
    total = result.llm_output["token_usage"]
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert total[key] == sum(usage[key] for usage in each) > 0
    assert total["total_tokens"] == total["prompt_tokens"] + total["completion_tokens"]
    assert result.llm_output["model_name"] == llm.model_name


def test_the_report_rides_on_the_last_chunk_alone(make_llm):
    chunks = list(make_llm({"One step. " * 12: 1.0}, block_tokens=8)._stream("Hello"))
    assert len(chunks) > 1
    assert all(chunk.generation_info is None for chunk in chunks[:-1])
    assert chunks[-1].generation_info["inference_guard"]["lag"] >= 0
    json.dumps(chunks[-1].generation_info)


def test_traces_name_model_settings_and_versions(make_llm, watcher):
    llm = make_llm(fields={"temperature": 0.5, "max_tokens": 40, "stop": ["x!"], "callbacks": [watcher]})
    llm.invoke("Hello")
    _, told = watcher.named("start")[0]
    metadata = told["metadata"]
    assert metadata["lc_versions"].keys() >= {"langchain-core", "inferenceguard"}
    params = llm._get_ls_params()
    assert params["ls_provider"] == "inferenceguard"
    assert params["ls_model_type"] == "llm"
    assert params["ls_model_name"] == llm.model_name
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.5, 40, ["x!"])
    assert llm._get_ls_params(temperature=0.1)["ls_temperature"] == 0.1
    assert told["invocation_params"]["_type"] == "inferenceguard"


# ---- tokens ----


def test_tokens_are_counted_with_the_models_own_tokenizer(make_llm):
    llm = make_llm()
    assert llm.get_num_tokens("Grüß") == len("Grüß".encode())
    assert llm.get_token_ids("ab") == llm.guard.tokenizer.encode("ab", add_special_tokens=False)
    asked = llm.generate_prompt([PromptTemplate.from_template("{x}").invoke({"x": "Hello"})])
    counted = llm.get_num_tokens_from_messages([HumanMessage("Hello")])
    assert counted == asked.generations[0][0].generation_info["usage"]["prompt_tokens"]


# ---- cache ----


def test_the_cache_answers_and_its_key_holds_everything(make_llm, watcher):
    cache = InMemoryCache()
    llm = make_llm(fields={"cache": cache, "seed": 3})
    calls = [
        {"input": "Hello"},
        {"input": "Hello", "budget": 0.25},
        {"input": "Hello", "temperature": 0.7},
        {"input": "Hello", "stop": ["x!"]},
        {"input": "Hello", "raw_prompt": True},
        {"input": "Hello", "on_block": "empty"},
        {"input": [HumanMessage("Hello")]},
    ]
    for call in calls:
        llm.invoke(**call)
    assert len(cache._cache) == len(calls)
    for call in calls:
        llm.invoke(**call, config={"callbacks": [watcher]})
    assert len(cache._cache) == len(calls)
    assert watcher.named("start") == []  # all from the cache


def test_a_changed_field_changes_the_key(make_llm):
    llm = make_llm(fields={"cache": InMemoryCache()})
    before = llm.asdict()
    llm.temperature = 0.25
    assert llm.asdict() != before


# ---- copies and logs ----


def test_copies_share_the_guard(make_llm):
    llm = make_llm()
    for other in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(), llm.model_copy(deep=True)):
        assert other.guard is llm.guard


def test_no_prompt_and_no_answer_in_the_logs(make_llm, caplog):
    with caplog.at_level(logging.DEBUG):
        make_llm({f"{MARKER} now": 0.5, "A quiet thing": 0.5}).invoke("Tell me a secret thing")
    assert not any(text in caplog.text for text in (MARKER, "quiet", "secret"))
