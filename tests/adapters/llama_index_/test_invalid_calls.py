"""Calls that are none are not lost, and hints name the true cause."""

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from llama_index.llms.inferenceguard import InferenceGuardLLM, StructuredOutputError
from tests.adapters.llama_index_.guards import scripted_guard
from tests.kit.tool_caller import CALL


def double(number: int) -> str:
    """Double a number."""
    return f"{number * 2}."


TOOLS = [FunctionTool.from_defaults(double)]
BROKEN = CALL % ("double", '{"number": "21"}')


def llm_of(answers):
    return InferenceGuardLLM.from_guard(scripted_guard(answers))


@pytest.mark.usefixtures("no_grammar")
def test_an_invalid_call_is_in_the_message_with_its_problem():
    llm = llm_of({f"Hm. {BROKEN}": 1.0})
    *_, streamed = llm.stream_chat_with_tools(TOOLS, "21?")
    for response in (llm.chat_with_tools(TOOLS, "21?"), streamed):
        assert response.message.content == "Hm."
        (call,) = response.message.additional_kwargs["invalid_tool_calls"]
        assert (call["name"], call["text"]) == ("double", BROKEN)
        assert "expected integer" in call["problem"]
        assert response.raw["inference_guard"]["invalid_tool_calls"] == [call]


@pytest.mark.usefixtures("no_grammar")
async def test_an_agent_that_ends_so_says_why():
    answer = await FunctionAgent(tools=TOOLS, llm=llm_of({BROKEN: 1.0})).run(user_msg="21?")
    assert "expected integer" in answer.response.additional_kwargs["invalid_tool_calls"][0]["problem"]
    assert answer.response.content == BROKEN


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("streaming", [True, False])
async def test_an_answer_that_is_nothing_but_an_invalid_call_is_no_empty_message(streaming):
    llm = llm_of({BROKEN: 1.0})
    *_, last = items = list(llm.stream_chat_with_tools(TOOLS, "21?"))
    assert last.message.content == "".join(item.delta for item in items) == BROKEN
    assert (await llm.achat_with_tools(TOOLS, "21?")).message.content == BROKEN
    answer = await FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming).run(user_msg="21?")
    assert str(answer) == BROKEN


@pytest.mark.usefixtures("no_grammar")
def test_it_stands_once_in_the_next_turn():
    seen = []

    def policy(prompt):
        seen.append(prompt)
        return {BROKEN: 1.0} if len(seen) == 1 else {"Well.": 1.0}

    llm = llm_of(policy)
    first = llm.chat_with_tools(TOOLS, "21?")
    asked = [ChatMessage(role="user", content=text) for text in ("21?", "Again?")]
    llm.chat([asked[0], first.message, asked[1]])
    assert seen[-1].count('"21"') == 1


@pytest.mark.usefixtures("no_grammar")
def test_the_hint_names_the_true_cause():
    def error(answer, **options):
        llm = llm_of({answer: 1.0})
        response = llm.chat_with_tools(TOOLS, "21?", **options)
        with pytest.raises(StructuredOutputError) as caught:
            llm.get_tool_calls_from_response(response)
        return str(caught.value)

    assert "tool_required=True" in error("No.")
    forced = error(" no", tool_required=True)
    assert "not JSON" in forced
    assert "tool_required" not in forced
    unfitting = error(BROKEN)
    assert "expected integer" in unfitting
    assert "tool_required" not in unfitting
    cut = error(BROKEN, max_tokens=20)
    assert "raise that" in cut
    assert "raise max_tokens" in error("Let me think about it for long.", max_tokens=8)


@pytest.mark.usefixtures("no_grammar")
def test_the_next_turn_sees_the_invalid_call():
    seen = []

    def policy(prompt):
        seen.append(prompt)
        return {f"Hm. {BROKEN}": 1.0} if len(seen) == 1 else {"Well.": 1.0}

    llm = llm_of(policy)
    first = llm.chat_with_tools(TOOLS, "21?")
    llm.chat([ChatMessage(role="user", content="21?"), first.message, ChatMessage(role="user", content="Again?")])
    assert BROKEN in seen[-1]
