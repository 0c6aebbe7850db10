"""Tool calls, agents and structured prediction, with a scripted policy that has the skill."""

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel, Field
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode

from ig_plugins.errors import JudgeError
from ig_plugins.guard import InferenceGuard
from llama_index.llms.inferenceguard import (
    GuardBlockedError,
    InferenceGuardLLM,
    PromptTooLongError,
    StructuredOutputError,
)
from tests.adapters.llama_index_.guards import MARK, REFUSAL, scripted_guard
from tests.kit.guards import make_guard
from tests.kit.tool_caller import CALL, tool_caller


def double(number: int) -> str:
    """Double a number."""
    return f"{number * 2}."


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


TOOLS = [FunctionTool.from_defaults(double), FunctionTool.from_defaults(weather)]


@pytest.fixture
def llm():
    return InferenceGuardLLM.from_guard(scripted_guard(tool_caller))


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, "double"),
        ("auto", "double"),
        ("required", "double"),
        ("weather", "weather"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
        ("none", None),
    ],
)
def test_tool_choice(llm, choice, called):
    response = llm.chat_with_tools(TOOLS, "Take 21 in 'Rome'.", tool_choice=choice)
    calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    assert [call.tool_name for call in calls] == ([called] if called else [])


def test_tool_required_forces_a_call():
    asked = []

    def policy(prompt):
        asked.append(prompt)
        return tool_caller(prompt)

    llm = InferenceGuardLLM.from_guard(scripted_guard(policy))
    response = llm.chat_with_tools(TOOLS[:1], "Take 21.", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)
    assert call.tool_kwargs == {"number": 21}
    assert '{"name": "double"' in asked[0].rsplit("assistant", 1)[1], "the call was not forced to begin"


def test_call_is_a_block_with_an_id_of_its_own_and_the_list_stays_as_it_was(llm):
    history = [ChatMessage(role="system", content="Be brief.")]
    responses = [llm.chat_with_tools(TOOLS, "double 4", chat_history=history) for _ in range(2)]
    assert len(history) == 1
    blocks = [block for response in responses for block in response.message.blocks]
    assert all(isinstance(block, ToolCallBlock) and block.tool_kwargs == {"number": 4} for block in blocks)
    assert len({block.tool_call_id for block in blocks}) == 2
    assert responses[0].raw["finish_reason"] == "tool_calls"


async def test_stream_holds_a_call_back_until_it_is_whole(llm):
    items = [item async for item in await llm.astream_chat_with_tools(TOOLS, "double 4")]
    assert [bool(llm.get_tool_calls_from_response(i, error_on_no_tool_call=False)) for i in items] == [False] * (
        len(items) - 1
    ) + [True]
    assert all("tool_call" not in (item.message.content or "") + (item.delta or "") for item in items)


@pytest.mark.usefixtures("no_grammar")
def test_a_call_that_is_cut_off_is_no_call(llm):
    response = llm.chat_with_tools(TOOLS, "double 4", max_tokens=40)
    assert response.raw["finish_reason"] == "length"
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(StructuredOutputError, match="raise that"):
        llm.get_tool_calls_from_response(response)


@pytest.mark.parametrize("allowed", [True, False])
def test_parallel_calls_only_where_allowed(allowed):
    two = CALL % ("double", '{"number": 1}') + "\n" + CALL % ("double", '{"number": 2}')
    llm = InferenceGuardLLM.from_guard(scripted_guard({two: 1.0}))
    response = llm.chat_with_tools(TOOLS, "both", allow_parallel_tool_calls=allowed)
    assert len(llm.get_tool_calls_from_response(response)) == (2 if allowed else 1)
    *_, last = llm.stream_chat_with_tools(TOOLS, "both", allow_parallel_tool_calls=allowed)
    assert len(llm.get_tool_calls_from_response(last)) == (2 if allowed else 1)


async def test_predict_and_call(llm):
    assert llm.predict_and_call(TOOLS, "double 4").response == "8."
    assert (await llm.apredict_and_call(TOOLS, "weather in 'Rome'")).response == "It rains in Rome."


def test_refusal_is_a_guard_error_where_a_call_is_needed():
    llm = InferenceGuardLLM.from_guard(scripted_guard({MARK: 1.0}))
    with pytest.raises(GuardBlockedError) as caught:
        llm.predict_and_call(TOOLS, "double 4")
    assert caught.value.report["blocked"] is True


async def acted(llm, way, **options):
    """What a model that knows no tools makes of a question, by ReAct."""
    if way == "sync":
        return llm.predict_and_call(TOOLS, "double 21", **options)
    return await llm.apredict_and_call(TOOLS, "double 21", **options)


def wordy(answers, **fields):
    guard = answers if isinstance(answers, InferenceGuard) else scripted_guard(answers)
    return InferenceGuardLLM.from_guard(guard, is_function_calling_model=False, **fields)


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_predict_and_call_in_words(way):
    assert (await acted(wordy(react), way)).response == "42."
    with pytest.raises(StructuredOutputError, match="no action"):
        await acted(wordy({"I would rather not.": 1.0}), way)
    assert (await acted(wordy({"I would rather not.": 1.0}), way, error_on_no_tool_call=False)).sources == []


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_an_error_is_not_what_predict_and_call_answers(way):
    """LlamaIndex makes a text of every error there, and an empty one of a refusal."""
    for settings in ({}, {"on_block": "raise"}):
        with pytest.raises(GuardBlockedError):
            await acted(wordy({MARK: 1.0}, **settings), way)

    def fails(prompts, responses):
        raise RuntimeError

    with pytest.raises(JudgeError):
        await acted(wordy(make_guard(react, cost=fails, chat=True)), way, error_on_no_tool_call=False)
    with pytest.raises(PromptTooLongError):
        await acted(wordy({"x": 1.0}, max_tokens=8000), way)


def test_history_with_calls_and_results_reaches_the_template():
    seen = []

    def policy(prompt):
        seen.append(prompt)
        return {"fine": 1.0}

    llm = InferenceGuardLLM.from_guard(scripted_guard(policy))
    call = ToolCallBlock(tool_call_id="c1", tool_name="double", tool_kwargs='{"number": 4}')
    messages = [
        ChatMessage(role="developer", content="Be brief."),
        ChatMessage(role="user", content="double 4"),
        ChatMessage(role="assistant", blocks=[TextBlock(text="Well."), call]),
        ChatMessage(role="tool", content="8.", additional_kwargs={"tool_call_id": "c1", "name": "double"}),
    ]
    llm.chat(messages)
    assert "system\nBe brief." in seen[0]
    assert 'Well.<tool_call>\n{"name": "double", "arguments": {"number": 4}}' in seen[0]
    assert "tool\n8." in seen[0]


# ---- agents ----


@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent_calls_and_answers(llm, streaming):
    handler = FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming).run(user_msg="double 21")
    events = [event async for event in handler.stream_events()]
    answer = await handler
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert (result.tool_name, result.tool_kwargs, result.tool_output.content) == ("double", {"number": 21}, "42.")
    assert str(answer) == "The tool said 42."
    assert answer.raw["inference_guard"]["blocked"] is False
    assert streaming == any(isinstance(event, AgentStream) for event in events)


def react(prompt):
    """Doubles with the tool, then answers with what it observed."""
    last = prompt.rsplit("user\n", 1)[1]
    if "Observation:" in last:
        number = last.split("Observation:")[1].split("assistant")[0].strip()
        return {f"Thought: I know it.\nAnswer: It is {number}": 1.0}
    return {'Thought: I need a tool.\nAction: double\nAction Input: {"number": 21}': 1.0}


@pytest.mark.parametrize("streaming", [True, False])
async def test_react_agent_calls_and_answers(streaming):
    llm = InferenceGuardLLM.from_guard(scripted_guard(react))
    handler = ReActAgent(tools=TOOLS, llm=llm, streaming=streaming).run(user_msg="double 21")
    called = [e.tool_name async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
    assert str(await handler) == "It is 42."
    assert called == ["double"]


async def test_agent_workflow_picks_the_agent_by_metadata(llm):
    workflow = AgentWorkflow.from_tools_or_functions([double, weather], llm=llm)
    assert [type(agent) for agent in workflow.agents.values()] == [FunctionAgent]
    assert str(await workflow.run(user_msg="double 21")) == "The tool said 42."
    own = InferenceGuardLLM.from_guard(llm.guard, messages_to_prompt=lambda messages: "x")
    workflow = AgentWorkflow.from_tools_or_functions([double], llm=own)
    assert [type(agent) for agent in workflow.agents.values()] == [ReActAgent]


# ---- structured prediction ----


class Album(BaseModel):
    """An album."""

    name: str
    songs: int = Field(description="How many songs.")


PROMPT = PromptTemplate("An album called '{name}' with {count} songs.")
MODES = [PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM]


def albums(prompt):
    if "<tool_call>" in prompt.rsplit("assistant", 1)[-1] or '"type": "function"' in prompt:
        return tool_caller(prompt)
    return {'{"name": "Rain", "songs": 12}': 1.0}


@pytest.mark.parametrize("mode", MODES)
async def test_structured_prediction(mode):
    llm = InferenceGuardLLM.from_guard(scripted_guard(albums), pydantic_program_mode=mode)
    expected = Album(name="Rain", songs=12)
    asked = {"name": "Rain", "count": 12}
    assert llm.structured_predict(Album, PROMPT, **asked) == expected
    assert await llm.astructured_predict(Album, PROMPT, **asked) == expected
    assert list(llm.stream_structured_predict(Album, PROMPT, **asked)) == [expected]
    assert [x async for x in await llm.astream_structured_predict(Album, PROMPT, **asked)] == [expected]
    structured = llm.as_structured_llm(Album)
    assert structured.chat([ChatMessage(role=MessageRole.USER, content="'Rain' with 12 songs")]).raw == expected


@pytest.mark.parametrize("mode", MODES)
async def test_a_refusal_is_no_object(mode):
    said = f'{{"name": "{MARK}", "songs": 12}}'
    said = f" {said}}}</tool_call>" if mode is PydanticProgramMode.DEFAULT else said
    llm = InferenceGuardLLM.from_guard(scripted_guard({said: 1.0}), pydantic_program_mode=mode)
    asked = {"name": "Rain", "count": 12}
    with pytest.raises(GuardBlockedError):
        llm.structured_predict(Album, PROMPT, **asked)
    with pytest.raises(GuardBlockedError):
        await llm.astructured_predict(Album, PROMPT, **asked)
    with pytest.raises(GuardBlockedError):
        list(llm.stream_structured_predict(Album, PROMPT, **asked))
    with pytest.raises(GuardBlockedError):
        [x async for x in await llm.astream_structured_predict(Album, PROMPT, **asked)]
    with pytest.raises(GuardBlockedError, match="blocked") as caught:
        llm.as_structured_llm(Album).complete("x")
    assert caught.value.report["blocked"] is True
    assert llm.complete("x").text == REFUSAL, "outside of structured prediction a refusal stays a value"
