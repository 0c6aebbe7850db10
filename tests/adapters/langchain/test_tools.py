"""Tools, structured output and agents, with a scripted policy that has the skill."""

from typing import Annotated, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, Field

from ig_plugins.errors import ConfigurationError, PromptError
from langchain_inferenceguard import GuardBlockedError
from tests.kit.guards import MARKER
from tests.kit.tool_caller import CALL, tool_caller


@tool
def double(number: int) -> str:
    """Double a number."""
    return f"{number * 2}."


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


TOOLS = [double, weather]


@pytest.fixture
def chat(make_chat):
    return make_chat(tool_caller)


# ---- tool choice ----


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, "double"),
        ("auto", "double"),
        ("any", "double"),
        ("required", "double"),
        (True, "double"),
        ("weather", "weather"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
        ({"type": "tool", "name": "weather"}, "weather"),
        ("none", None),
        (False, None),
    ],
)
def test_every_form_of_tool_choice(chat, choice, called):
    bound = chat.bind_tools(TOOLS, tool_choice=choice)
    for message in (bound.invoke("What is 21?"), sum(bound.stream("What is 21?"), AIMessageChunk(""))):
        assert [call["name"] for call in message.tool_calls] == ([called] if called else [])
        assert message.response_metadata["finish_reason"] == ("tool_calls" if called else "stop")
        assert message.invalid_tool_calls == []
    if called == "double":
        assert message.tool_calls[0]["args"] == {"number": 21}


def test_call_ids_are_unique(chat):
    bound = chat.bind_tools(TOOLS)
    ids = [bound.invoke("What is 21?").tool_calls[0]["id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(ids)


def test_a_choice_that_no_tool_satisfies_is_an_error(chat):
    with pytest.raises(PromptError, match="thrice"):
        chat.bind_tools(TOOLS, tool_choice="thrice")


def test_no_part_of_a_call_is_streamed(chat):
    chunks = list(chat.bind_tools(TOOLS).stream("What is 21?"))
    assert all(not chunk.content and not chunk.tool_call_chunks for chunk in chunks[:-1])
    assert "".join(chunk.content for chunk in chunks) == ""
    assert len(chunks[-1].tool_calls) == 1


CUT = CALL % ("double", '{"number": 21')


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize(
    "answer",
    [
        CUT[: CUT.index("21") + 1],  # cut inside the number: half of it is another number
        CALL % ("double", '{"number": "21"}'),  # not what the tool asks for
        CALL % ("erase", '{"number": 21}'),  # not a tool that was offered
        CALL % ("double", '{"number": 21, "number": 2}'),
    ],
)
def test_a_broken_call_is_never_executable(make_chat, answer):
    bound = make_chat({answer: 1.0}).bind_tools(TOOLS)
    for message in (bound.invoke("What is 21?"), sum(bound.stream("What is 21?"), AIMessageChunk(""))):
        assert message.tool_calls == []
        assert len(message.invalid_tool_calls) == 1


def test_a_blocked_call_is_never_executable(make_chat):
    bound = make_chat({CALL % ("weather", f'{{"city": "{MARKER}"}}'): 1.0}).bind_tools(TOOLS)
    for message in (bound.invoke("Where?"), sum(bound.stream("Where?"), AIMessageChunk(""))):
        assert message.tool_calls == []
        assert message.response_metadata["finish_reason"] == "content_filter"


@pytest.mark.usefixtures("no_grammar")
def test_a_call_cut_by_max_tokens_is_never_executable(chat):
    last_brace = (CALL % ("double", '{"number": 21}')).rindex("}")  # behind it, all of the call is there
    bound = chat.bind_tools(TOOLS)
    for tokens in [*range(1, last_brace, 9), last_brace]:
        for message in (
            bound.invoke("What is 21?", max_tokens=tokens),
            sum(bound.stream("What is 21?", max_tokens=tokens), AIMessageChunk("")),
        ):
            assert message.tool_calls == []
            assert message.response_metadata["finish_reason"] == "length"


# ---- structured output ----


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="The question.")
    punchline: str


class JokeDict(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "The question."]
    punchline: Annotated[str, ..., "The answer."]


class Story(BaseModel):
    """A story."""

    title: str
    text: str = ""


SCHEMAS = [Joke, JokeDict, Joke.model_json_schema()]
ASK = "Tell a joke as JSON with 'setup' and 'punchline'."


@pytest.mark.parametrize("schema", SCHEMAS, ids=["pydantic", "typeddict", "json_schema"])
@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("strict", [None, False, True])
async def test_structured_output(chat, schema, method, strict):
    model = chat.with_structured_output(schema, method=method, strict=strict)
    for answer in (model.invoke(ASK), await model.ainvoke(ASK), list(model.stream(ASK))[-1]):
        answer = answer.model_dump() if isinstance(answer, BaseModel) else answer
        assert set(answer) == {"setup", "punchline"}


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_a_refusal_is_an_error_and_not_none(make_chat, method):
    said = f'{{"setup": "{MARKER}", "punchline": "x"}}'
    blocked = make_chat({f" {said}}}</tool_call>" if method == "function_calling" else said: 1.0})
    with pytest.raises(GuardBlockedError) as caught:
        blocked.with_structured_output(Joke, method=method).invoke(ASK)
    assert caught.value.report["blocked"] is True
    both = blocked.with_structured_output(Joke, method=method, include_raw=True).invoke(ASK)
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], GuardBlockedError)
    assert isinstance(both["raw"], AIMessage)


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_an_answer_fits_by_construction(make_chat, method):
    """A policy that knows nothing of the schema, nor of JSON: tokens are masked while they are sampled."""

    class Verdict(BaseModel):
        """A verdict."""

        kind: Literal["good", "bad", "neither"]
        sure: bool

    for answer in ("I think that it is good.", '{"kind": "awful"}', ""):
        verdict = make_chat({answer: 1.0}, seed=3).with_structured_output(Verdict, method=method).invoke(ASK)
        assert isinstance(verdict, Verdict)


def test_an_answer_that_does_not_fit_is_an_error(make_chat, chat):
    with pytest.raises(ConfigurationError, match="max_tokens is 20"):  # no joke is so short
        chat.with_structured_output(Joke, max_tokens=20).invoke(ASK)
    with pytest.raises(ConfigurationError, match="max_tokens is 20"):
        chat.with_structured_output(Joke, method="json_mode", max_tokens=20).invoke(ASK)
    # An answer that is both is none of one of them, which no mask can see.
    age = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    either = {"title": "Age", "type": "object", "properties": {"age": age}, "required": ["age"]}
    three = make_chat({'{"age": 3}': 1.0})
    with pytest.raises(OutputParserException, match="age"):
        three.with_structured_output(either, method="json_mode", strict=True).invoke(ASK)
    assert three.with_structured_output(either, method="json_mode").invoke(ASK) == {"age": 3}
    with pytest.raises(ConfigurationError, match="telepathy"):
        chat.with_structured_output(Joke, method="telepathy")


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("schema", [Story, Story.model_json_schema()], ids=["pydantic", "json_schema"])
def test_an_object_that_a_stop_string_cuts_is_none(make_chat, method, schema):
    """LangChain's parser completes half an object, and what is missing may have a default."""
    said = '{"title": "Rain in May", "text": "It fell."}'
    chat = make_chat({f" {said}}}\n</tool_call>" if method == "function_calling" else said: 1.0})
    cut = chat.with_structured_output(schema, method=method, stop=["May"])
    with pytest.raises(OutputParserException, match="cut off") as caught:
        cut.invoke(ASK)
    assert '"Rain in ' in caught.value.llm_output
    both = chat.with_structured_output(schema, method=method, stop=["May"], include_raw=True).invoke(ASK)
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], OutputParserException)
    assert chat.with_structured_output(schema, method=method, stop=["June"]).invoke(ASK)


# ---- agents ----


async def test_create_agent_runs_to_the_end(chat):
    agent = create_agent(chat, TOOLS)
    question = {"messages": [HumanMessage("What is double of 21?")]}
    for state in (agent.invoke(question), await agent.ainvoke(question)):
        kinds = [type(m) for m in state["messages"]]
        assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
        assert state["messages"][-1].text == "The tool said 42."
    streamed = [m for m, _ in agent.stream(question, stream_mode="messages") if isinstance(m, AIMessageChunk)]
    assert "".join(m.text for m in streamed) == "The tool said 42."


def test_create_agent_with_structured_response(chat):
    agent = create_agent(chat, TOOLS, response_format=ToolStrategy(Joke))
    state = agent.invoke({"messages": [HumanMessage("A Joke please")]})
    assert isinstance(state["structured_response"], Joke)


def test_a_graph_of_ones_own_runs_to_the_end(chat):
    bound = chat.bind_tools(TOOLS)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(TOOLS))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    state = graph.compile().invoke({"messages": [HumanMessage("The weather in 'Oslo'?")]})
    assert state["messages"][-1].text == "The tool said It rains in Oslo."


def test_an_agents_call_that_the_guard_blocks_is_not_run(make_chat):
    ran = []

    @tool
    def act(order: str) -> str:
        """Act."""
        ran.append(order)
        return "done"

    chat = make_chat({CALL % ("act", f'{{"order": "{MARKER}"}}'): 1.0})
    state = create_agent(chat, [act]).invoke({"messages": [HumanMessage("Go")]})
    assert ran == []
    assert state["messages"][-1].response_metadata["finish_reason"] == "content_filter"
