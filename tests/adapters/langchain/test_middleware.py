"""The middleware around agents whose model is somebody else's."""

import asyncio
import json
import random
import threading
from dataclasses import dataclass

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware, ToolCallRequest
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import Command, Overwrite, Send, interrupt
from pydantic import BaseModel

from critic_models.bundled import world
from ig_plugins.errors import ConfigurationError, JudgeError, JudgeTimeoutError, ReentrantJudgeError
from langchain_inferenceguard import GuardBlockedError, InferenceGuardMiddleware

BAD = "WRECK"
STOPPED = "This was stopped by a safety check."
CALL = {"name": "look_up", "id": "1", "type": "tool_call"}


class Hosted(GenericFakeChatModel):
    """Stands for a hosted model: scripted, streaming word by word, unguarded."""

    def bind_tools(self, tools, **kwargs):
        return self

    @property
    def _llm_type(self):
        return "hosted"


def hosted(*messages: str | AIMessage) -> Hosted:
    return Hosted(messages=iter([m if isinstance(m, AIMessage) else AIMessage(m) for m in messages]))


def asked_for(args):
    """A request for a call of no tool, in an agent that has said nothing."""
    return ToolCallRequest(tool_call={**CALL, "args": args}, tool=None, state={"messages": []}, runtime=None)


def judge(prompts, responses):
    return [1.0 if BAD in response else -1.0 for response in responses]


@dataclass
class Written:
    messages: list


class Modelled(BaseModel):
    messages: list


@pytest.fixture
def ran():
    return []


@pytest.fixture
def look_up(ran):
    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return f"{BAD} found" if what == "danger" else f"{what} found"

    return look_up


def agent_of(model, tools=(), **settings):
    return create_agent(model, list(tools), middleware=[InferenceGuardMiddleware(judge, **settings)])


def ask(agent, text="Hello"):
    return agent.invoke({"messages": [HumanMessage(text)]})["messages"]


def call(what):
    return AIMessage("", tool_calls=[{**CALL, "args": {"what": what}}])


# ---- what passes, passes unchanged ----


async def test_harmless_runs_are_left_alone(look_up, ran):
    for run in ("invoke", "ainvoke"):
        agent = agent_of(hosted(call("moss"), "Moss is green."), [look_up])
        question = {"messages": [HumanMessage("What is moss?")]}
        state = await agent.ainvoke(question) if run == "ainvoke" else agent.invoke(question)
        assert [m.text for m in state["messages"]] == ["What is moss?", "", "moss found", "Moss is green."]
    assert ran == ["moss", "moss"]


# ---- each place, each behaviour ----


def test_input(look_up):
    model = hosted("never", "asked")
    end = ask(agent_of(model), f"Please {BAD}")
    assert end[-1].text == STOPPED
    assert end[-1].response_metadata["inference_guard"]["stage"] == "input"
    with pytest.raises(GuardBlockedError) as caught:
        ask(agent_of(model, exit_behavior="error"), f"Please {BAD}")
    assert caught.value.report["cost"] == 1.0
    assert BAD not in str(caught.value)
    replaced = ask(agent_of(model, exit_behavior="replace"), f"Please {BAD}")
    assert [m.text for m in replaced] == [STOPPED, "never"]  # the model answered what was put there
    assert ask(agent_of(model, check_input=False), f"Please {BAD}")[-1].text == "asked"


async def test_output_never_enters_the_state():
    seen = []
    for mode in ("updates", "values"):
        agent = agent_of(hosted(f"First {BAD} it"))
        seen += [str(part) for part in agent.stream({"messages": [HumanMessage("Hello")]}, stream_mode=mode)]
    assert not any(BAD in part for part in seen)
    message = ask(agent_of(hosted(f"First {BAD} it")))[-1]
    assert message.text == STOPPED
    assert message.additional_kwargs["refusal"] == STOPPED
    assert message.response_metadata["finish_reason"] == "content_filter"
    with pytest.raises(GuardBlockedError):
        ask(agent_of(hosted(f"First {BAD} it"), exit_behavior="error"))
    assert ask(agent_of(hosted(f"First {BAD} it"), exit_behavior="replace"))[-1].text == STOPPED
    assert BAD in ask(agent_of(hosted(f"First {BAD} it"), check_output=False))[-1].text


def test_a_flagged_answer_takes_its_calls_with_it(look_up, ran):
    said = AIMessage(f"I {BAD} and look", tool_calls=[{**CALL, "args": {"what": "moss"}}])
    assert ask(agent_of(hosted(said, "unused"), [look_up]))[-1].text == STOPPED
    assert ran == []
    replaced = ask(agent_of(hosted(said, "Moss is green."), [look_up], exit_behavior="replace"))
    assert [m.text for m in replaced] == ["Hello", STOPPED, "moss found", "Moss is green."]


def test_tool_calls_are_judged_before_they_run(look_up, ran):
    end = ask(agent_of(hosted(call(BAD), "unused"), [look_up]))
    assert isinstance(end[-1], AIMessage)
    assert end[-1].text == STOPPED
    with pytest.raises(GuardBlockedError):
        ask(agent_of(hosted(call(BAD)), [look_up], exit_behavior="error"))
    replaced = ask(agent_of(hosted(call(BAD), "I could not."), [look_up], exit_behavior="replace"))
    assert isinstance(replaced[2], ToolMessage)
    assert (replaced[2].text, replaced[2].status, replaced[-1].text) == (STOPPED, "error", "I could not.")
    assert ran == []
    ask(agent_of(hosted(call(BAD), "Done."), [look_up], check_tool_calls=False, check_tool_results=False))
    assert ran == [BAD]


async def test_tool_results_are_judged_before_the_model_reads_them(look_up):
    settings = {"check_tool_calls": False}
    end = ask(agent_of(hosted(call("danger"), "unused"), [look_up], **settings))
    assert end[-1].text == STOPPED
    assert not any(BAD in m.text for m in end)
    agent = agent_of(hosted(call("danger"), "I could not."), [look_up], exit_behavior="replace", **settings)
    state = await agent.ainvoke({"messages": [HumanMessage("Hello")]})
    assert [m.text for m in state["messages"][2:]] == [STOPPED, "I could not."]
    with pytest.raises(GuardBlockedError):
        ask(agent_of(hosted(call("danger")), [look_up], exit_behavior="error", **settings))


def test_results_inside_commands_are_judged():
    @tool
    def look_up(what: str) -> Command:
        """Look something up."""
        return Command(update={"messages": [ToolMessage(f"{BAD} found", tool_call_id="1")]})

    messages = ask(agent_of(hosted(call("moss"), "Hm."), [look_up], exit_behavior="replace"))
    assert [m.text for m in messages[2:]] == [STOPPED, "Hm."]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("behaviour", ["end", "error", "replace"])
async def test_results_in_a_command_that_leaves_a_graph_inside_a_tool_are_judged(behaviour, how):
    """It comes as an exception, not as the tool's result."""
    found = Command(graph=Command.PARENT, update={"messages": [ToolMessage(f"{BAD} found", tool_call_id="1")]})
    inner = StateGraph(MessagesState).add_node("search", lambda _: found).add_edge("__start__", "search").compile()

    @tool(return_direct=True)
    def look_up(what: str) -> str:
        """Look something up."""
        return str(inner.invoke({"messages": [HumanMessage(what)]}))

    agent = agent_of(hosted(call("moss"), "unused"), [look_up], exit_behavior=behaviour)
    question = {"messages": [HumanMessage("Hello")]}
    modes = ["messages", "updates", "values"]
    try:
        run = (
            agent.stream(question, stream_mode=modes) if how == "invoke" else agent.astream(question, stream_mode=modes)
        )
        parts = list(run) if how == "invoke" else [part async for part in run]
    except GuardBlockedError:
        assert behaviour == "error"
        return
    assert behaviour != "error"
    assert BAD not in str(parts)
    assert STOPPED in str(parts)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("behaviour", ["end", "error", "replace"])
@pytest.mark.parametrize("asks", [f"Shall I {BAD} it?", {"answer": [f"{BAD} it"]}, Modelled(messages=[BAD])])
async def test_what_a_tool_asks_a_human_is_judged(asks, behaviour, how):
    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        return f"{interrupt(asks)}, then {interrupt('Sure?')}"

    guard = InferenceGuardMiddleware(judge, exit_behavior=behaviour)
    model, saver = hosted(call("moss"), "Moss is green."), InMemorySaver()
    agent = create_agent(model, [look_up], middleware=[guard], checkpointer=saver)
    thread = {"configurable": {"thread_id": "1"}}

    async def run(given):
        return agent.invoke(given, thread) if how == "invoke" else await agent.ainvoke(given, thread)

    question = {"messages": [HumanMessage("Hello")]}
    if behaviour == "error":
        with pytest.raises(GuardBlockedError):
            await run(question)
        return
    assert [each.value for each in (await run(question))["__interrupt__"]] == [STOPPED]
    assert [each.value for each in (await run(Command(resume="yes")))["__interrupt__"]] == ["Sure?"]
    done = (await run(Command(resume="yes")))["messages"]
    assert [m.text for m in done[-2:]] == ["yes, then yes", "Moss is green."]


@pytest.mark.parametrize(
    "form",
    [
        {"role": "tool", "content": f"{BAD} found", "tool_call_id": "1"},
        f"{BAD} found",
        ("ai", [{"type": "text", "text": BAD}]),
        [{"type": "tool", "content": f"{BAD} found", "tool_call_id": "1"}],
        Command(update={"messages": Overwrite([ToolMessage(f"{BAD} found", tool_call_id="1")])}),
        Command(goto=Send("model", {"messages": [ToolMessage(f"{BAD} found", tool_call_id="1")]})),
        Command(goto=[Send("model", [("ai", f"{BAD} found")])]),
        Command(goto=["model", Send("model", ToolMessage(f"{BAD} found", tool_call_id="1"))]),
    ],
    ids=["mapping", "text", "pair", "list", "Overwrite", "Send", "Send of a list", "Send of a message"],
)
def test_results_are_judged_in_every_form_that_langgraph_makes_messages_of(form):
    """Other middleware may answer for a tool; LangGraph looks at the form only when it writes the state."""
    request = asked_for({"what": "moss"})
    answer = InferenceGuardMiddleware(judge, exit_behavior="replace").wrap_tool_call(request, lambda _: form)
    assert BAD not in str(answer)
    assert STOPPED in str(answer)


def test_what_a_tool_sends_to_another_agent_is_judged():
    @tool
    def look_up(what: str) -> Command:
        """Look something up."""
        other = Send("other", {"messages": [HumanMessage(f"{BAD} it"), {"role": "user", "content": "Thanks."}]})
        return Command(graph=Command.PARENT, goto=[other])

    read = []
    agents = StateGraph(MessagesState).add_node("first", agent_of(hosted(call("moss")), [look_up]))
    agents.add_node("other", lambda state: read.append(state["messages"]) or {})
    agents.add_edge("__start__", "first").compile().invoke({"messages": [HumanMessage("Hello")]})
    assert [message.text for message in read[0]] == [STOPPED, "Thanks."]


def test_what_a_tool_writes_into_the_graph_around_its_agent_arrives():
    @tool
    def look_up(what: str) -> Command:
        """Look something up."""
        return Command(graph=Command.PARENT, update={"messages": [ToolMessage("moss found", tool_call_id="1")]})

    agents = StateGraph(MessagesState).add_node("first", agent_of(hosted(call("moss")), [look_up]))
    state = agents.add_edge("__start__", "first").compile().invoke({"messages": [HumanMessage("Hello")]})
    assert state["messages"][-1].text == "moss found"


def test_a_model_that_stands_in_for_a_tool_is_not_streamed(look_up):
    class Emulates(AgentMiddleware):
        def wrap_tool_call(self, request, handler):
            words = hosted(f"First {BAD} it").invoke("moss").text
            return ToolMessage(words, tool_call_id=request.tool_call["id"])

    guard = InferenceGuardMiddleware(judge, exit_behavior="replace")
    agent = create_agent(hosted(call("moss"), "Hm."), [look_up], middleware=[guard, Emulates()])
    parts = list(agent.stream({"messages": [HumanMessage("Hello")]}, stream_mode=["messages", "updates"]))
    assert BAD not in str(parts)


def test_a_call_that_says_it_was_stopped_is_judged_as_any_other():
    mark = "stopped_by_inference_guard"
    middleware = InferenceGuardMiddleware(judge, check_tool_calls=False, exit_behavior="replace")
    request = asked_for({mark: f"{BAD} it"})
    assert middleware.wrap_tool_call(request, None).text == STOPPED

    def no_heat(prompts, responses):
        pairs = zip(prompts, responses, strict=True)
        return [1.0 if BAD in said or ("heat it" in said and "mix" in asked) else -1.0 for asked, said in pairs]

    strict = InferenceGuardMiddleware(no_heat, exit_behavior="replace")
    calls = [{**CALL, "args": {"what": BAD}}, {**CALL, "id": "2", "args": {mark: "heat it"}}]
    said = AIMessage("", tool_calls=calls)
    strict.before_model({"messages": [HumanMessage("Hello"), said]}, None)
    later = AIMessage("", tool_calls=calls[1:])
    update = strict.before_model({"messages": [HumanMessage("Shall I mix it?"), later]}, None)
    assert "heat" not in str(update["messages"][0].tool_calls)


@pytest.mark.parametrize(
    "form",
    [
        lambda m: {"messages": m},
        lambda m: [("messages", m)],
        lambda m: (("messages", m[0]),),
        lambda m: Written(messages=m),
        lambda m: Modelled(messages=m),
    ],
    ids=["mapping", "list of pairs", "pairs with one message", "dataclass", "pydantic"],
)
def test_no_state_holds_a_flagged_result_in_whatever_form_a_command_writes_it(form):
    found = ToolMessage(f"{BAD} found", tool_call_id="1", name="look_up")
    request = asked_for({"what": "moss"})
    command = Command(update=form([found]), goto="model")
    answer = InferenceGuardMiddleware(judge, exit_behavior="replace").wrap_tool_call(request, lambda _: command)
    channels = StateGraph(MessagesState).add_node("look_up", lambda _: answer).add_node("model", lambda _: None)
    graph = channels.add_edge("__start__", "look_up").compile()
    states = list(graph.stream({"messages": [HumanMessage("Hello")]}, stream_mode="values"))
    assert [m.text for m in states[-1]["messages"]] == ["Hello", STOPPED]
    assert BAD not in str(states)


def test_an_update_of_a_command_that_cannot_be_read_is_refused():
    request = asked_for({})
    with pytest.raises(ConfigurationError, match="Command"):
        InferenceGuardMiddleware(judge).wrap_tool_call(request, lambda _: Command(update=f"{BAD} found"))


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("Hi", name=f"{BAD} it, said I"),
        SystemMessage("Be kind.", name=f"{BAD} it, said I"),
        ToolMessage("moss", tool_call_id="1", name=f"{BAD} it, said I"),
        HumanMessage("Hi", name=BAD),
    ],
    ids=lambda message: message.type,
)
def test_words_in_a_name_are_judged_and_replaced(message):
    middleware = InferenceGuardMiddleware(judge, exit_behavior="replace")
    update = middleware.before_model({"messages": [HumanMessage("Hello"), message]}, None)
    [changed] = update["messages"]
    assert BAD not in changed.model_dump_json()
    assert changed.text == STOPPED


def test_a_flagged_structured_answer_ends_the_run():
    class Plan(BaseModel):
        """A plan."""

        step: str

    said = AIMessage("", tool_calls=[{"name": "Plan", "id": "1", "args": {"step": f"{BAD} it"}}])
    agent = create_agent(
        hosted(said, said, said), [], response_format=ToolStrategy(Plan), middleware=[InferenceGuardMiddleware(judge)]
    )
    state = agent.invoke({"messages": [HumanMessage("Hello")]})
    assert state.get("structured_response") is None
    assert state["messages"][-1].text == STOPPED


# ---- streaming: what it holds back, and what it says it cannot ----


async def test_other_models_are_not_streamed_while_held():
    question = {"messages": [HumanMessage("Hello")]}
    held = list(agent_of(hosted(f"First {BAD} it now")).stream(question, stream_mode="messages"))
    assert [m.text for m, _ in held] == [STOPPED]
    passed = list(agent_of(hosted("All is well")).stream(question, stream_mode="messages"))
    assert [m.text for m, _ in passed] == ["All is well"]
    events = [e async for e in agent_of(hosted(f"First {BAD} it now")).astream_events(question, version="v2")]
    assert BAD not in str(events)
    assert STOPPED in str(events)


class Breaks(Hosted):
    """Fails, so that another model has to answer."""

    def _generate(self, *args, **kwargs):
        raise ConnectionError

    _stream = _generate


WRAPPED = {
    "binding": lambda model: ([model.bind(stop=["."])], []),
    "with_config": lambda model: ([model.with_config(tags=["mine"])], []),
    "with_retry": lambda model: ([model.with_retry()], []),
    "configurable": lambda model: ([model.configurable_fields()], []),
    "with_fallbacks": lambda model: ([hosted_breaks().with_fallbacks([model])], []),
    "fallback middleware": lambda model: ([hosted_breaks()], [ModelFallbackMiddleware(model)]),
}


def hosted_breaks():
    return Breaks(messages=iter([]))


@pytest.mark.parametrize("how", ["stream", "astream", "v2", "v3"])
@pytest.mark.parametrize("wrapped", WRAPPED)
async def test_models_that_are_wrapped_or_stand_in_are_not_streamed(wrapped, how):
    [model], more = WRAPPED[wrapped](hosted(f"First {BAD} it now"))
    agent = create_agent(model, [], middleware=[InferenceGuardMiddleware(judge), *more])
    question = {"messages": [HumanMessage("Hello")]}
    if how == "stream":
        parts = list(agent.stream(question, stream_mode=["messages", "updates"]))
    elif how == "astream":
        parts = [part async for part in agent.astream(question, stream_mode=["messages", "updates"])]
    elif how == "v2":
        parts = [event async for event in agent.astream_events(question, version="v2")]
    else:
        parts = [event async for event in await agent.astream_events(question, version="v3")]
    assert BAD not in str(parts)
    assert STOPPED in str(parts)


def test_without_holding_tokens_of_other_models_do_leave():
    agent = agent_of(hosted(f"First {BAD} it now"), hold_stream=False)
    parts = agent.stream({"messages": [HumanMessage("Hello")]}, stream_mode="messages")
    assert BAD in "".join(m.text for m, _ in parts if isinstance(m, AIMessageChunk))


# ---- fails closed, and says what is wrong ----


@pytest.mark.parametrize("scores", [lambda p, r: 1 / 0, lambda p, r: [float("nan")], lambda p, r: [0.0, 0.0]])
async def test_a_failing_judge_lets_nothing_through(scores):
    for place in ("check_input", "check_output"):
        only = dict.fromkeys(["check_input", "check_output", "check_tool_calls", "check_tool_results"], False)
        guard = InferenceGuardMiddleware(scores, **{**only, place: True})
        agent = create_agent(hosted("secret words", "secret words"), [], middleware=[guard])
        with pytest.raises(JudgeError) as caught:
            agent.invoke({"messages": [HumanMessage("Hello")]})
        assert "secret" not in str(caught.value)
        with pytest.raises(JudgeError):
            await agent.ainvoke({"messages": [HumanMessage("Hello")]})


def test_settings_are_checked_at_once():
    with pytest.raises(ConfigurationError, match="exit_behavior"):
        InferenceGuardMiddleware(judge, exit_behavior="shrug")
    with pytest.raises(ConfigurationError, match="violation_message"):
        InferenceGuardMiddleware(judge, violation_message="No {reason}")
    with pytest.raises(ConfigurationError, match="limit"):
        InferenceGuardMiddleware(judge, limit=float("nan"))


def test_limit_and_message():
    words = "Stopped at {stage}: {score:.1f} over {limit}"
    message = ask(agent_of(hosted(f"{BAD}"), limit=0.5, violation_message=words))[-1]
    assert message.text == "Stopped at output: 1.0 over 0.5"
    json.dumps(message.response_metadata)
    assert BAD in ask(agent_of(hosted(f"{BAD}"), limit=1.0))[-1].text  # a score equal to the limit is safe


def test_a_presets_cost_model_tells_safe_answers_from_unsafe_ones():
    guard = InferenceGuardMiddleware("tiny-beaver")
    seen: dict[bool, list[bool]] = {True: [], False: []}
    for prompt in world.prompts("test", "sensitive")[:4]:
        for answer in random.Random(0).sample(list(world.answers(prompt)), 8):
            seen[world.unsafe(prompt, answer)].append(guard.screen.look("output", answer, prompt=prompt).blocked)
    assert sum(seen[True]) >= 0.7 * len(seen[True]) > 0
    assert sum(seen[False]) <= 0.2 * len(seen[False])
    agent = create_agent(hosted("All is well."), middleware=[guard])
    assert ask(agent)[-1].text == "All is well."


# ---- a judge that does not come back ----


def test_a_judge_that_hangs_stops_one_run_and_lets_nothing_pass():
    free = threading.Event()

    def hangs(prompts, responses):
        free.wait(30)
        return [-1.0] * len(responses)

    agent = create_agent(hosted("Hello."), [], middleware=[InferenceGuardMiddleware(hangs, judge_timeout=0.2)])
    with pytest.raises(JudgeTimeoutError, match="'hangs' gave no verdict within"):
        agent.invoke({"messages": [HumanMessage("Hi")]})
    with pytest.raises(JudgeTimeoutError):
        asyncio.run(agent.ainvoke({"messages": [HumanMessage("Hi")]}))
    free.set()
    with pytest.raises(ConfigurationError, match="judge_timeout is 0; give a number of seconds above 0"):
        InferenceGuardMiddleware(judge, judge_timeout=0)


def test_a_judge_that_asks_its_own_agent_is_refused():
    def curious(prompts, responses):
        agent.invoke({"messages": [HumanMessage("What do you say?")]})
        return [-1.0] * len(responses)

    agent = create_agent(hosted("Hello.", "Hello."), [], middleware=[InferenceGuardMiddleware(curious)])
    with pytest.raises(ReentrantJudgeError, match="'curious' asked a guard"):
        agent.invoke({"messages": [HumanMessage("Hi")]})
