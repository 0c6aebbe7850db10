"""`ChatInferenceGuard` beyond what the standard tests look at."""

import json

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import LLMResult
from pydantic import ValidationError

from ig_plugins.errors import PromptError
from ig_plugins.guard.options import REFUSAL
from langchain_inferenceguard import ChatInferenceGuard, GuardBlockedError
from tests.kit.guards import MARKER

GREETING = "Good morning, and good luck with it."
LONG = "One step. " * 12


def test_an_answer_carries_usage_and_report(make_chat):
    chat = make_chat()
    message = chat.invoke("Hello")
    metadata = message.response_metadata
    assert message.content == GREETING
    assert metadata["model_name"] == chat.model_name
    assert metadata["model_provider"] == "inferenceguard"
    assert metadata["finish_reason"] == "stop"
    assert metadata["inference_guard"]["blocked"] is False
    assert metadata["inference_guard"]["blocks"]
    usage = message.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] >= len(GREETING)
    json.dumps(metadata)


def test_streaming_says_everything_once_and_last(make_chat):
    chunks = list(make_chat({LONG: 1.0}, block_tokens=8).stream("Hello"))
    assert len(chunks) > 2
    assert all(not c.response_metadata and c.usage_metadata is None and c.chunk_position is None for c in chunks[:-1])
    whole = sum(chunks[1:], chunks[0])
    assert whole.content == LONG
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["inference_guard"]["lag"] >= 0
    assert whole.usage_metadata["output_tokens"] > 0


async def test_stream_and_invoke_agree(make_chat):
    chat = make_chat(fields={"seed": 5})
    whole, streamed = chat.invoke("Hello"), None
    async for chunk in chat.astream("Hello"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == whole.content
    assert streamed.usage_metadata == whole.usage_metadata
    assert (
        streamed.response_metadata["inference_guard"]["blocks"] == whole.response_metadata["inference_guard"]["blocks"]
    )


def test_a_block_is_marked_the_way_langchain_marks_refusals(make_chat):
    chat = make_chat({f"Now {MARKER} it": 1.0})
    whole, streamed = chat.invoke("Hello"), sum(chat.stream("Hello"), AIMessageChunk(""))
    for message in (whole, streamed):
        assert message.additional_kwargs["refusal"] == REFUSAL
        assert message.response_metadata["finish_reason"] == "content_filter"
        assert message.response_metadata["inference_guard"]["blocked"] is True
    assert whole.content == REFUSAL
    assert streamed.content.endswith(REFUSAL)  # after as much of the answer as was verified and released
    assert MARKER not in streamed.content
    assert chat.invoke("Hello", on_block="empty").content == ""
    assert chat.invoke("Hello", on_block="empty").additional_kwargs["refusal"]
    with pytest.raises(GuardBlockedError):
        list(chat.stream("Hello", on_block="raise"))


def test_streaming_field_lets_invoke_stream(make_chat, watcher):
    chat = make_chat({LONG: 1.0}, block_tokens=8, fields={"streaming": True})
    assert chat.invoke("Hello", config={"callbacks": [watcher]}).content == LONG
    assert len(watcher.named("token")) > 2


def test_callbacks_and_v3_events_carry_the_text(make_chat, watcher):
    chat = make_chat({LONG: 1.0}, block_tokens=8)
    list(chat.stream("Hello", config={"callbacks": [watcher]}))
    assert "".join(token for token, _ in watcher.named("token")) == LONG
    assert chat.stream_events("Hello", version="v3").output.text == LONG


# ---- messages ----


def test_history_tools_and_prefill_reach_the_model(make_chat):
    seen = []

    def answers(prompt):
        seen.append(prompt)
        return {GREETING: 1.0}

    chat = make_chat(answers)
    chat.invoke(
        [
            SystemMessage("Be kind."),
            HumanMessage([{"type": "text", "text": "Add "}, {"type": "text", "text": "them"}]),
            AIMessage(
                [{"type": "text", "text": "I add."}, {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}],
                tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}],
            ),
            ToolMessage("Two.", tool_call_id="1", status="error"),
            ChatMessage("And now?", role="user"),
            AIMessage("The answer"),
        ],
        last_assistant="prefill",
    )
    (prompt,) = seen
    assert "user\nAdd them" in prompt
    assert '"name": "add", "arguments": {"a": 1}' in prompt
    assert "tool\nTwo." in prompt
    assert prompt.rstrip().endswith("assistant\nThe answer")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]), "image_url"),
        (HumanMessage([{"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}]), "audio"),
        (ChatMessage("Hello", role="pirate"), "pirate"),
    ],
)
def test_what_a_text_model_cannot_read_is_refused_in_words(make_chat, message, told):
    with pytest.raises(PromptError, match=told) as caught:
        make_chat().invoke([message])
    assert "AAAA" not in str(caught.value)


# ---- parameters, profile, traces ----


def test_standard_parameters_of_hosted_models_are_taken_and_dropped():
    chat = ChatInferenceGuard(model="tiny-beaver", max_retries=2, api_key="secret", timeout=5, max_tokens=9, stop=["x"])
    assert (chat.timeout, chat.max_tokens, list(chat.stop)) == (5, 9, ["x"])
    assert "secret" not in repr(chat)
    with pytest.raises(ValidationError, match="treshold"):
        ChatInferenceGuard(treshold=0.9)


def test_unknown_call_settings_are_errors(make_chat):
    with pytest.raises(TypeError, match="tresholds"):
        make_chat().invoke("Hello", tresholds=1)


def test_the_profile_says_what_agents_need_to_know(make_chat):
    profile = make_chat().profile
    assert profile["tool_calling"] is True
    assert profile["structured_output"] is True
    assert profile["image_inputs"] is False
    assert profile["max_input_tokens"] > 0


def test_the_profile_claims_structured_output_only_where_tokens_are_masked(request):
    assert ChatInferenceGuard(model="tiny-beaver").profile["structured_output"] is True
    assert ChatInferenceGuard(model="vllm+http://127.0.0.1:9/any").profile["structured_output"] is False
    request.getfixturevalue("no_grammar")
    assert ChatInferenceGuard(model="tiny-beaver").profile["structured_output"] is False


def test_generate_adds_up_usage(make_chat):
    result: LLMResult = make_chat().generate([[HumanMessage("Hello")], [HumanMessage("Hey")]])
    each = [generations[0].message.usage_metadata["total_tokens"] for generations in result.generations]
    assert result.llm_output["token_usage"]["total_tokens"] == sum(each)


def test_token_counts_follow_the_chat_format(make_chat):
    chat = make_chat()
    counted = chat.get_num_tokens_from_messages([HumanMessage("Hello")])
    assert counted == chat.invoke("Hello").usage_metadata["input_tokens"]

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    assert chat.get_num_tokens_from_messages([HumanMessage("Hello")], tools=[add]) > counted + 50
