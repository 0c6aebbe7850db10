"""`ToolChoiceMiddleware`: a call is forced before a tool has answered, and free or forbidden behind."""

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool

from ig_plugins.errors import PromptError
from langchain_inferenceguard import ToolChoiceMiddleware
from tests.kit.tool_caller import tool_caller


@tool
def double(number: int) -> str:
    """Double a number."""
    return f"{number * 2}."


@tool
def half(number: int) -> str:
    """Halve a number."""
    return f"{number / 2:g}."


def asked_choices(monkeypatch, chat):
    """What each request of an agent's model says of the choice."""
    seen = []
    bind = type(chat).bind_tools

    def watched(self, tools, *, tool_choice=None, **kwargs):
        seen.append(tool_choice)
        return bind(self, tools, tool_choice=tool_choice, **kwargs)

    monkeypatch.setattr(type(chat), "bind_tools", watched)
    return seen


def unwilling(prompt):
    """A policy that calls where its answer has been started for it, and only there."""
    begun = prompt.rstrip().endswith(("{", ":", '"')) and "assistant" in prompt
    return tool_caller(prompt) if begun or "\ntool\n" in prompt else {"I would rather not.": 1.0}


QUESTION = {"messages": [("user", "What is double of 21?")]}


@pytest.mark.parametrize("then", ["auto", "none"])
async def test_a_call_is_forced_until_a_tool_has_answered(make_chat, monkeypatch, then):
    chat = make_chat(unwilling)
    plain = create_agent(chat, [double, half]).invoke(QUESTION)
    assert [m.type for m in plain["messages"]] == ["human", "ai"], "of its own accord it calls nothing"
    seen = asked_choices(monkeypatch, chat)
    agent = create_agent(chat, [double, half], middleware=[ToolChoiceMiddleware("double", then=then)])
    for state in (agent.invoke(QUESTION), await agent.ainvoke(QUESTION)):
        assert [m.type for m in state["messages"]] == ["human", "ai", "tool", "ai"]
        assert state["messages"][-2].content == "42."
        assert state["messages"][-1].content == "The tool said 42."
    assert seen == ["double", then] * 2
    again = agent.invoke({"messages": [*state["messages"], ("user", "What is double of 4?")]})
    assert again["messages"][-2].content == "8.", "each turn of the user begins anew"


def test_it_streams_as_without(make_chat):
    agent = create_agent(make_chat(tool_caller), [double, half], middleware=[ToolChoiceMiddleware()])
    words = [chunk.content for chunk, _ in agent.stream(QUESTION, stream_mode="messages") if chunk.type != "tool"]
    assert "".join(words) == "The tool said 42."


def test_a_tool_that_is_not_there_is_named(make_chat):
    agent = create_agent(make_chat(tool_caller), [double], middleware=[ToolChoiceMiddleware("triple")])
    with pytest.raises(PromptError, match="triple"):
        agent.invoke(QUESTION)


def test_an_agent_without_tools_is_left_alone(make_chat):
    agent = create_agent(make_chat({"Hi.": 1.0}), [], middleware=[ToolChoiceMiddleware()])
    assert agent.invoke(QUESTION)["messages"][-1].content == "Hi."
