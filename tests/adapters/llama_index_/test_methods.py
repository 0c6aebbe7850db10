"""The eight methods: what they answer, what they stream, which events they fire, what they count."""

import json

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate

from llama_index.llms.inferenceguard import GuardBlockedError, InferenceGuardLLM
from tests.adapters.llama_index_.guards import MARK, REFUSAL, scripted_guard
from tests.adapters.llama_index_.methods import METHODS, call

ANSWER = "open the window and wait a while"


@pytest.fixture
def llm():
    return InferenceGuardLLM.from_guard(scripted_guard({ANSWER: 1.0}))


@pytest.fixture
def blocked():
    return InferenceGuardLLM.from_guard(scripted_guard({f"a fair start and then {MARK}": 1.0}))


@pytest.mark.parametrize("method", METHODS)
async def test_answer_events_and_report(llm, watch, method):
    with watch(llm) as (events, callbacks):
        items = await call(llm, method, "hi")
    kind = "Chat" if "chat" in method else "Completion"
    names = events.names()
    assert names.count(f"LLM{kind}StartEvent") == 1
    assert names.count(f"LLM{kind}EndEvent") == 1
    assert names.count(f"LLM{kind}InProgressEvent") == (len(items) if "stream" in method else 0)
    assert sum("LLM" in name for name in names) == 2 + ("stream" in method) * len(items)
    assert callbacks.count() == (1, 1)

    last = items[-1]
    assert last.text == ANSWER
    assert last.raw["finish_reason"] == "stop"
    assert last.raw["inference_guard"]["blocked"] is False
    assert json.loads(json.dumps(last.raw)) == last.raw
    assert last.raw["usage"]["completion_tokens"] > 0
    assert last.additional_kwargs == last.raw["usage"]


@pytest.mark.parametrize("method", [name for name in METHODS if "stream" in name])
async def test_stream_is_cumulative_and_reports_once(llm, method):
    items = await call(llm, method, "hi", block_tokens=4)
    assert len(items) > 2
    said = ""
    for item in items:
        said += item.delta
        assert item.text == said
    assert [item.raw is None for item in items] == [True] * (len(items) - 1) + [False]


@pytest.mark.parametrize("method", METHODS)
async def test_block_is_the_refusal_alone(blocked, watch, method):
    with watch(blocked) as (events, _):
        items = await call(blocked, method, "hi")
    assert items[-1].text == REFUSAL
    assert items[-1].raw["finish_reason"] == "content_filter"
    assert items[-1].raw["inference_guard"]["blocked"] is True
    assert events.names().count("LLMChatEndEvent" if "chat" in method else "LLMCompletionEndEvent") == 1
    assert MARK not in "".join(item.text + (item.delta or "") for item in items)


@pytest.mark.parametrize("method", METHODS)
async def test_block_can_raise_or_be_empty(blocked, method):
    with pytest.raises(GuardBlockedError) as caught:
        await call(blocked, method, "hi", on_block="raise")
    assert caught.value.report["blocked"] is True
    assert (await call(blocked, method, "hi", on_block="empty"))[-1].text == ""


@pytest.mark.parametrize("method", METHODS)
async def test_unknown_option_is_refused_by_name(llm, watch, method):
    with watch(llm) as (_, callbacks), pytest.raises(TypeError, match="treshold"):
        await call(llm, method, "hi", treshold=1)
    assert callbacks.count() == (1, 1)


@pytest.mark.parametrize("method", METHODS)
async def test_options_of_one_call(llm, method):
    short = (await call(llm, method, "hi", max_tokens=4))[-1]
    assert short.text == ANSWER[:4]
    assert short.raw["finish_reason"] == "length"
    cut = (await call(llm, method, "hi", stop=["window"]))[-1]
    assert cut.text.strip() == "open the"
    assert (await call(llm, method, "hi"))[-1].text == ANSWER


def test_stop_field_holds_for_all_calls_and_the_call_wins():
    llm = InferenceGuardLLM.from_guard(scripted_guard({ANSWER: 1.0}), stop=["wait"])
    assert llm.complete("hi").text.strip() == "open the window and"
    assert llm.complete("hi", stop=[]).text == ANSWER


def test_completion_is_one_user_turn_unless_formatted():
    """The scripted policy answers with the prompt that it was given."""
    llm = InferenceGuardLLM.from_guard(scripted_guard(lambda prompt: {prompt: 1.0}))
    assert llm.complete("abc").text == "user\nabc\nassistant\n"
    assert llm.complete("abc", formatted=True).text == "abc"


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.chat([ChatMessage(content="abc")]).message.content,
        lambda llm: llm.complete("abc").text,
        lambda llm: llm.predict(PromptTemplate("abc")),
        lambda llm: "".join(llm.stream(PromptTemplate("abc"))),
    ],
)
def test_system_prompt_is_said_once(ask):
    llm = InferenceGuardLLM.from_guard(scripted_guard(lambda prompt: {prompt: 1.0}), system_prompt="Be kind.")
    assert ask(llm) == "system\nBe kind.\nuser\nabc\nassistant\n"


def test_own_prompt_functions_are_used():
    llm = InferenceGuardLLM.from_guard(
        scripted_guard(lambda prompt: {prompt: 1.0}),
        messages_to_prompt=lambda messages: f"<{messages[-1].content}>",
        completion_to_prompt=lambda text: f"[{text}]",
    )
    assert llm.chat([ChatMessage(content="abc")]).message.content == "<abc>"
    assert llm.complete("abc").text == "[abc]"
    assert not llm.metadata.is_function_calling_model
    with pytest.raises(ValueError, match="messages_to_prompt"):
        llm.chat([ChatMessage(content="abc")], tools=[{"type": "function", "function": {"name": "f"}}])


def test_metadata_is_the_model_s(llm):
    data = llm.metadata
    assert llm.guard.context - 40 < data.context_window < llm.guard.context  # the template takes some of it
    assert data.num_output == llm.guard.search.max_new_tokens
    assert data.is_chat_model
    assert data.is_function_calling_model  # its template knows tools
    assert data.system_role == MessageRole.SYSTEM
    assert InferenceGuardLLM.from_guard(llm.guard, max_tokens=17).metadata.num_output == 17


@pytest.mark.parametrize("method", METHODS)
async def test_token_counting_handler_sees_the_real_counts(llm, method):
    counter = TokenCountingHandler(tokenizer=lambda text: [0] * 100_000)
    llm.callback_manager = CallbackManager([counter])
    usage = (await call(llm, method, "hi"))[-1].raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"] > 0
    assert counter.completion_llm_token_count == usage["completion_tokens"] == len(ANSWER) + 1


def test_rate_limiter_is_asked_once_a_call(llm):
    class Limiter:
        taken = 0

        def acquire(self):
            self.taken += 1

    llm.rate_limiter = Limiter()
    llm.chat([ChatMessage(content="hi")])
    list(llm.stream_complete("hi"))
    assert llm.rate_limiter.taken == 2
