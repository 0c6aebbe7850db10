"""Calls that are none are not lost: they stand in `invalid_tool_calls`, in errors, and in what the model sees next."""

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_inferenceguard import GuardBlockedError
from langchain_inferenceguard._convert import unparsable
from tests.kit.guards import MARKER
from tests.kit.tool_caller import CALL


@tool
def double(number: int) -> str:
    """Double a number."""
    return f"{number * 2}."


class Joke(BaseModel):
    """A joke."""

    setup: str


BROKEN = {
    CALL % ("double", '{"number": 21'): "not JSON, or was cut off",
    CALL % ("double", '{"number": "21"}'): "expected integer",
    CALL % ("erase", '{"number": 21}'): "no tool that may be used",
    CALL % ("double", "{}"): "lacks 'number'",
}


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize(("answer", "problem"), BROKEN.items())
async def test_an_invalid_call_is_in_the_message_with_its_problem(make_chat, answer, problem):
    bound = make_chat({f"Hm. {answer}": 1.0}).bind_tools([double])
    whole = bound.invoke("21?")
    summed = sum(bound.stream("21?"), AIMessageChunk(""))
    for message in (whole, await bound.ainvoke("21?"), summed):
        assert (message.content, message.tool_calls) == ("Hm.", [])
        (call,) = message.invalid_tool_calls
        assert call["args"] == answer
        assert call["id"]
        (told,) = message.response_metadata["inference_guard"]["invalid_tool_calls"]
        assert told["text"] == answer
        assert problem in told["problem"]
    assert problem in whole.invalid_tool_calls[0]["error"]


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("answer", BROKEN)
async def test_an_answer_that_is_nothing_but_an_invalid_call_is_no_empty_message(make_chat, answer):
    chat = make_chat({answer: 1.0})
    bound = chat.bind_tools([double])
    summed = sum(bound.stream("21?"), AIMessageChunk(""))
    for message in (bound.invoke("21?"), await bound.ainvoke("21?"), summed):
        assert (message.content, message.tool_calls) == (answer, [])
        assert len(message.invalid_tool_calls) == 1
    agent = create_agent(chat, [double])
    for state in (agent.invoke({"messages": [("user", "21?")]}), await agent.ainvoke({"messages": [("user", "21?")]})):
        assert state["messages"][-1].content == answer
    streamed = [chunk.content for chunk, _ in agent.stream({"messages": [("user", "21?")]}, stream_mode="messages")]
    assert "".join(streamed) == answer


@pytest.mark.usefixtures("no_grammar")
def test_the_search_begins_anew_where_no_call_is_valid(make_chat):
    """Seven of eight answers are invalid calls; one candidate alone finds the valid one in a later search."""
    good = CALL % ("double", '{"number": 21}')
    answers = {CALL % ("double", f'{{"number": "{n}"}}'): 1 / 8 for n in range(7)} | {good: 1 / 8}
    options = {"candidates": 1, "beams": 1, "max_tokens": 99, "block_tokens": 99}

    def valid(tries):
        bound = make_chat(answers, **options, tries=tries).bind_tools([double])
        return sum(bool(bound.invoke("21?", seed=seed).tool_calls) for seed in range(12))

    assert valid(1) < 6 < valid(24)


@pytest.mark.usefixtures("no_grammar")
def test_it_stands_once_in_the_next_turn(make_chat):
    seen = []
    answer = next(iter(BROKEN))

    def policy(prompt):
        seen.append(prompt)
        return {"Well.": 1.0} if answer in prompt else {answer: 1.0}

    chat = make_chat(policy).bind_tools([double])
    first = chat.invoke("21?")
    assert chat.invoke([HumanMessage("21?"), first, HumanMessage("Again?")]).content == "Well."
    assert seen[-1].count('{"number": 21') == 1


def test_langchain_never_completes_an_invalid_call():
    """It parses what looks like cut-off JSON, and would make a call of it."""
    text = '{"number": 21'
    told = {"name": "double", "id": "1", "index": 0, "type": "tool_call_chunk"}
    assert AIMessageChunk("", tool_call_chunks=[{**told, "args": text}]).tool_calls
    for args in (text, "", "  {", "\n"):
        chunk = AIMessageChunk("", tool_call_chunks=[{**told, "args": unparsable(args)}])
        summed = AIMessageChunk("") + chunk + AIMessageChunk("", chunk_position="last")
        for message in (chunk, summed):
            assert message.tool_calls == []
            assert len(message.invalid_tool_calls) == 1


@pytest.mark.usefixtures("no_grammar")
def test_the_next_turn_sees_the_invalid_call(make_chat):
    seen = []
    answer = next(iter(BROKEN))

    def policy(prompt):
        seen.append(prompt)
        return {"Well.": 1.0} if "assistant\nHm." in prompt else {f"Hm. {answer}": 1.0}

    agent = create_agent(make_chat(policy), [double])
    state = agent.invoke({"messages": [HumanMessage("21?")]})
    assert state["messages"][-1].invalid_tool_calls
    again = agent.invoke({"messages": [*state["messages"], HumanMessage("Again?")]})
    assert again["messages"][-1].content == "Well."
    assert answer in seen[-1]


# ---- an agent with a response_format never ends without its object ----


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("form", [Joke, ToolStrategy(Joke)])
async def test_a_response_format_raises_and_is_never_none(make_chat, form):
    broken = create_agent(make_chat({'{"setup": 1}}\n</tool_call>': 1.0}), [], response_format=form)
    question = {"messages": [HumanMessage("A joke")]}
    with pytest.raises(OutputParserException, match="expected string") as caught:
        broken.invoke(question)
    assert '{"setup": 1}' in caught.value.llm_output
    with pytest.raises(OutputParserException, match="expected string"):
        await broken.ainvoke(question)
    with pytest.raises(OutputParserException, match="expected string"):
        list(broken.stream(question, stream_mode="messages"))
    blocked = create_agent(make_chat({MARKER: 1.0}), [double], response_format=form)
    with pytest.raises(GuardBlockedError):
        blocked.invoke(question)


@pytest.mark.parametrize("tools", [[], [double]], ids=["no tools", "a tool"])
async def test_a_response_format_says_that_the_guard_blocked(make_chat, tools):
    """Held to its schema, an agent's object is a text, and a refusal would be called no JSON."""
    agent = create_agent(make_chat({f'{{"setup": "{MARKER}"}}': 1.0}), tools, response_format=Joke)
    question = {"messages": [HumanMessage("A joke")]}
    for ask in (agent.invoke, lambda given: list(agent.stream(given, stream_mode="messages"))):
        with pytest.raises(GuardBlockedError):
            ask(question)
    with pytest.raises(GuardBlockedError):
        await agent.ainvoke(question)


def test_a_response_format_that_is_cut_off_says_so(make_chat):
    either = {"title": "Ends", "type": "object", "properties": {"end": {"pattern": "^(a|b)*ab{9}$"}}}
    chat = make_chat({'{"end": "' + "a" * 99: 1.0}, max_tokens=60)
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        create_agent(chat, [], response_format=ProviderStrategy(either)).invoke({"messages": [HumanMessage("A joke")]})


@pytest.mark.usefixtures("no_grammar")
def test_a_structured_answer_that_fails_says_why(make_chat):
    model = make_chat({' {"setup": 1}}\n</tool_call>': 1.0}).with_structured_output(Joke)
    with pytest.raises(OutputParserException, match="expected string"):
        model.invoke("A joke")
    cut = make_chat({' {"setup": "Why did the chicken cross': 1.0}).with_structured_output(Joke, max_tokens=20)
    with pytest.raises(OutputParserException, match="max_tokens"):
        cut.invoke("A joke")


@pytest.mark.usefixtures("no_grammar")
def test_forced_calls_of_ones_own_tools_do_not_raise(make_chat):
    bound = make_chat({"never mind": 1.0}).bind_tools([double], tool_choice="any")
    message = bound.invoke("21?")
    assert isinstance(message, AIMessage)
    assert message.invalid_tool_calls
