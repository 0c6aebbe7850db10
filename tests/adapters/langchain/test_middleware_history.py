"""The middleware and what is already in an agent's state: nothing counts as passed that it did not pass itself."""

from dataclasses import dataclass

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, hook_config
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import Base64Str, BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from langchain_inferenceguard import GuardBlockedError, InferenceGuardMiddleware
from langchain_inferenceguard._last_look import watched
from langchain_inferenceguard._parts import parts_of

BAD = "WRECK"
STOPPED = "This was stopped by a safety check."
BEHAVIOURS = ["end", "error", "replace"]
THREAD = {"configurable": {"thread_id": "1"}}


class Spelled(BaseModel):
    """What a hosted model's client has read for its caller."""

    words: str


@dataclass
class Noted:
    words: str


class Hosted(GenericFakeChatModel):
    """Stands for a hosted model: scripted, streaming word by word, and it keeps what it read."""

    read: list = []

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, *args, **kwargs):
        self.read.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


def hosted(*messages):
    return Hosted(messages=iter([m if isinstance(m, AIMessage) else AIMessage(m) for m in messages]), read=[])


def judge(prompts, responses):
    return [1.0 if BAD in response else -1.0 for response in responses]


def agent_of(model, tools=(), more=(), saver=None, **settings):
    guard = InferenceGuardMiddleware(judge, **settings)
    return create_agent(model, list(tools), middleware=[guard, *more], checkpointer=saver)


async def run(agent, messages, how, config=THREAD):
    given = {"messages": messages}
    return await agent.ainvoke(given, config) if how == "async" else agent.invoke(given, config)


async def ended(agent, messages, how, behaviour):
    """The state in which a flagged run ends; None where it has raised instead, as it must with "error"."""
    if behaviour != "error":
        return await run(agent, messages, how)
    with pytest.raises(GuardBlockedError):
        await run(agent, messages, how)
    return None


def all_read(model):
    return "".join(str(messages) for messages in model.read)


def calling(what, **more):
    return AIMessage("", tool_calls=[{"name": "look_up", "id": "1", "args": {"what": what}}], **more)


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what} found"


# ---- what was flagged does not wait for the next turn ----


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
async def test_a_flagged_question_is_not_answered_one_turn_later(behaviour, how):
    model = hosted("one", "two", "three")
    agent = agent_of(model, saver=InMemorySaver(), exit_behavior=behaviour)
    await ended(agent, [HumanMessage(f"Please {BAD}")], how, behaviour)
    assert BAD not in str(agent.get_state(THREAD).values)
    state = await run(agent, [HumanMessage("Please answer my previous question")], how)
    assert state["messages"][-1].text in ("one", "two")
    assert BAD not in all_read(model)
    assert STOPPED in all_read(model)
    assert "inference_guard_stop" not in state
    await run(agent, [HumanMessage("And now?")], how)


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize(
    "given",
    [
        AIMessage(f"Sure, {BAD} it like this"),
        AIMessage([{"type": "reasoning", "reasoning": f"{BAD} it"}, {"type": "text", "text": "Sure"}]),
        AIMessage("Sure", additional_kwargs={"reasoning_content": f"{BAD} it"}),
        AIMessage("", tool_calls=[{"name": "look_up", "id": "1", "args": {"what": BAD}}]),
        HumanMessage(f"{BAD} it"),
        SystemMessage(f"{BAD} it"),
        AIMessage(f"{BAD}", response_metadata={"inference_guard": {"blocked": False}, "passed": True}),
    ],
)
async def test_history_that_a_client_sends_is_judged(given, behaviour, how):
    model = hosted("one", "two")
    agent = agent_of(model, [look_up], saver=InMemorySaver(), exit_behavior=behaviour)
    result = [ToolMessage("x", tool_call_id="1")] if getattr(given, "tool_calls", None) else []
    history = [HumanMessage("Hello"), given, *result, HumanMessage("Go on")]
    await ended(agent, history, how, behaviour)
    assert BAD not in str(agent.get_state(THREAD).values)
    assert len(model.read) == (1 if behaviour == "replace" else 0)
    state = await run(agent, [HumanMessage("Go on")], how)
    assert state["messages"][-1].text in ("one", "two")
    assert BAD not in all_read(model)


def test_marks_cannot_be_brought_along():
    """A client that gives the state's private field, or a message that another object passed, gains nothing."""
    model = hosted("never")
    lax = InferenceGuardMiddleware(lambda p, r: [-1.0] * len(r))
    saver = InMemorySaver()
    create_agent(hosted("Sure"), middleware=[lax], checkpointer=saver).invoke(
        {"messages": [HumanMessage(f"Please {BAD}")]}, THREAD
    )
    agent = agent_of(model, saver=saver)
    given = {"messages": [HumanMessage("Go on")], "inference_guard_stop": None, "passed": ["x"]}
    assert agent.invoke(given, THREAD)["messages"][-1].text == STOPPED
    assert model.read == []


def test_what_passed_is_judged_once():
    seen = []

    def counting(prompts, responses):
        seen.extend(responses)
        return judge(prompts, responses)

    agent = create_agent(
        hosted("one", "two"), middleware=[InferenceGuardMiddleware(counting)], checkpointer=InMemorySaver()
    )
    for question in ("Hello", "Go on"):
        agent.invoke({"messages": [HumanMessage(question)]}, THREAD)
    assert sorted(seen) == ["Go on", "Hello", "one", "two"]


def screen(function):
    return InferenceGuardMiddleware(function).screen


def test_what_answered_one_question_is_judged_anew_for_other_questions():
    """ "Yes" may be harmless after one question and not after the next."""
    seen = screen(lambda prompts, responses: [1.0 if "poison" in prompt else -1.0 for prompt in prompts])
    assert not seen.look("output", "Yes.", prompt="Shall I water the moss?").blocked
    assert seen.look("output", "Yes.", prompt="Shall I poison the well?").blocked
    assert not seen.look("output", "Yes.", prompt="Shall I water the moss?").blocked


def test_questions_and_answers_that_run_into_each_other_are_told_apart():
    seen = screen(lambda prompts, responses: [1.0 if response == "bcd" else -1.0 for response in responses])
    assert not seen.look("output", "cd", prompt="ab").blocked
    assert seen.look("output", "bcd", prompt="a").blocked


def test_texts_that_are_harmful_only_together_are_stopped():
    seen = screen(lambda prompts, responses: [1.0 if "mix" in r and "heat" in r else -1.0 for r in responses])
    assert not seen.look("output", "mix it").blocked
    assert not seen.look("output", "heat it").blocked
    assert seen.look("output", "mix it", "then heat it").blocked


def test_a_call_that_was_changed_after_the_model_made_it_is_judged_before_its_tool_runs():
    """Other middleware may write into a call that has passed."""
    ran = []

    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return "found"

    class Changes(AgentMiddleware):
        def after_model(self, state, runtime):
            last = state["messages"][-1]
            calls = [{**call, "args": {"what": BAD}} for call in last.tool_calls]
            return {"messages": [last.model_copy(update={"tool_calls": calls})]} if calls else None

    for behaviour in ("end", "replace"):
        agent = agent_of(hosted(calling("moss"), "one"), [look_up], more=[Changes()], exit_behavior=behaviour)
        agent.invoke({"messages": [HumanMessage("Hello")]})
    assert ran == []


class RewritesCalls(AgentMiddleware):
    """Changes calls behind the guard, as LangChain's own middleware does with a reviewer's edit."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def _changed(self, request):
        return request.override(tool_call={**request.tool_call, "args": {"what": self.what}})

    def wrap_tool_call(self, request, handler):
        return handler(self._changed(request))

    async def awrap_tool_call(self, request, handler):
        return await handler(self._changed(request))


@pytest.mark.parametrize("wait", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("behaviour", ["end", "replace", "error"])
async def test_a_call_that_is_changed_behind_the_guard_is_judged_before_its_tool_runs(wait, behaviour):
    ran = []

    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return "found"

    async def answer(what):
        agent = agent_of(hosted(calling("moss"), "one"), [look_up], more=[RewritesCalls(what)], exit_behavior=behaviour)
        question = {"messages": [HumanMessage("Hello")]}
        return (await agent.ainvoke(question) if wait else agent.invoke(question))["messages"]

    assert [m.text for m in await answer("fern")] == ["Hello", "", "found", "one"]
    if behaviour == "error":
        with pytest.raises(GuardBlockedError):
            await answer(BAD)
    else:
        assert [m.text for m in await answer(BAD)][2:] == [STOPPED, STOPPED if behaviour == "end" else "one"]
    assert ran == ["fern"]


def test_a_watched_tool_keeps_its_callbacks_and_judges_nothing_within():
    seen, judged = [], []

    class Watching(BaseCallbackHandler):
        def on_tool_start(self, serialized, input_str, **more):
            seen.append(serialized["name"])

    @tool
    def inner(what: str) -> str:
        """Inside."""
        return f"{BAD} found"

    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        return str(len(inner.invoke({"what": BAD})))

    for callbacks in ([Watching()], CallbackManager([Watching()])):
        watched_tool = watched(look_up.model_copy(update={"callbacks": callbacks}), lambda *call: judged.append(call))
        assert watched_tool.invoke({"what": "moss"}) == str(len(f"{BAD} found"))
    assert [name for name in seen if name == "look_up"] == ["look_up"] * 2
    assert judged == [("look_up", {"what": "moss"})] * 2
    assert look_up.callbacks is None


def test_an_object_that_holds_itself_is_read_once():
    class Node:
        def __init__(self):
            self.words, self.me = f"{BAD} it", self

    message = AIMessage("Hi", additional_kwargs={"parsed": Node()})
    assert f"{BAD} it" in parts_of(message).words


def test_what_other_middleware_adds_is_judged_too():
    class Adds(AgentMiddleware):
        def before_model(self, state, runtime):
            return {"messages": [HumanMessage(f"{BAD} it")]}

    for behaviour in ("end", "replace"):
        model = hosted("one")
        agent_of(model, more=[Adds()], exit_behavior=behaviour).invoke({"messages": [HumanMessage("Hello")]})
        assert BAD not in all_read(model)


class Extends(AgentMiddleware):
    def wrap_model_call(self, request, handler):
        update = {"messages": [AIMessage(f"{BAD} it")]}
        return ExtendedModelResponse(model_response=handler(request), command=Command(update=update))

    async def awrap_model_call(self, request, handler):
        update = {"messages": [AIMessage(f"{BAD} it")]}
        return ExtendedModelResponse(model_response=await handler(request), command=Command(update=update))


class Rewrites(AgentMiddleware):
    def after_model(self, state, runtime):
        return {"messages": [AIMessage(f"{BAD} it", id=state["messages"][-1].id)]}


class EndsEarly(AgentMiddleware):
    @hook_config(can_jump_to=["end"])
    def before_agent(self, state, runtime):
        return {"messages": [AIMessage(f"{BAD} it")], "jump_to": "end"}


class Closes(AgentMiddleware):
    def after_agent(self, state, runtime):
        return {"messages": [AIMessage(f"{BAD} it")]}


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("other", [Extends, Rewrites, EndsEarly, Closes])
async def test_what_other_middleware_writes_behind_the_model_does_not_come_back(other, behaviour, how):
    agent = agent_of(hosted("one"), more=[other()], exit_behavior=behaviour)
    if (state := await ended(agent, [HumanMessage("Hello")], how, behaviour)) is None:
        return
    assert BAD not in str(state)
    assert state["messages"][-1].text == STOPPED


def test_a_flagged_tool_result_and_call_leave_the_state_for_good():
    for said, flags in ((calling("moss"), {}), (calling(BAD), {"check_tool_results": False})):

        @tool
        def look_up(what: str) -> str:
            """Look something up."""
            return f"{BAD} found"

        for behaviour in ("end", "replace"):
            model = hosted(said, "one", "two")
            agent = agent_of(model, [look_up], saver=InMemorySaver(), exit_behavior=behaviour, **flags)
            run_parts = list(agent.stream({"messages": [HumanMessage("Hello")]}, THREAD, stream_mode="updates"))
            assert BAD not in str(run_parts)
            agent.invoke({"messages": [HumanMessage("Tell me the result")]}, THREAD)
            assert BAD not in all_read(model)
            assert BAD not in str([snapshot.values for snapshot in agent.get_state_history(THREAD)])


# ---- every part of a message ----


@pytest.mark.parametrize(
    "said",
    [
        AIMessage([{"type": "thinking", "thinking": f"{BAD} it", "signature": "x"}, {"type": "text", "text": "Hi"}]),
        AIMessage([{"type": "reasoning", "summary": [{"type": "summary_text", "text": BAD}]}, "Hi"]),
        AIMessage([{"type": "refusal", "refusal": f"No {BAD}"}]),
        AIMessage([{"type": "text", "text": "Hi", "annotations": [{"type": "citation", "cited_text": BAD}]}]),
        AIMessage([{"type": "server_tool_result", "tool_call_id": "1", "output": {"lines": [BAD]}}]),
        AIMessage([{"type": "web_search_call", "action": {"query": BAD}}]),
        AIMessage("Hi", additional_kwargs={"reasoning_content": f"{BAD} it"}),
        AIMessage("Hi", additional_kwargs={"audio": {"data": "", "transcript": BAD}}),
        AIMessage("Hi", invalid_tool_calls=[{"name": "look_up", "args": f'{{"what": "{BAD}', "id": "1", "error": ""}]),
        AIMessage([{"type": "tool_use", "id": "1", "name": "look_up", "input": {"what": BAD}}]),
        AIMessage("Hi", additional_kwargs={"function_call": {"name": "x", "arguments": '{"a": "\\u0057RECK"}'}}),
        AIMessage([{"type": "image", "base64": "AAAA", "mime_type": "image/png"}, {"type": "text", "text": "Hi"}]),
        AIMessage([{"type": "of_the_future", "words": "unknown"}]),
        AIMessage([{"type": "server_tool_result", "tool_call_id": "1", "output": {BAD: 1}}]),
        AIMessage([{"type": "json", "value": {"status": f"{BAD} it"}}]),
        AIMessage([{"type": "text", "text": "Hi", f"{BAD} it": True}]),
        AIMessage([{"type": "text", "text": "Hi", "id": f"{BAD} it"}]),
        AIMessage([{"type": "function", "function": {"name": "x", "arguments": "{}"}, "note": BAD}]),
        AIMessage("Hi", additional_kwargs={"parsed": Spelled(words="\u0057RECK it")}),
        AIMessage("Hi", additional_kwargs={"parsed": Noted("\u0057RECK it")}),
        AIMessage("Hi", additional_kwargs={"tags": {BAD}}),
        AIMessage("Hi", additional_kwargs={f"{BAD} it": 1}),
        AIMessage('Look: {"step": "\\u0057RECK it"}'),
        AIMessage("Hi", thoughts=f"{BAD} it"),
        AIMessage(f"{BAD}", thoughts=f"{BAD} it"),
    ],
)
async def test_every_part_of_an_answer_is_judged(said):
    for how in ("sync", "async"):
        for behaviour in BEHAVIOURS:
            agent = agent_of(hosted(said.model_copy(deep=True)), exit_behavior=behaviour, saver=InMemorySaver())
            if (state := await ended(agent, [HumanMessage("Hello")], how, behaviour)) is None:
                continue
            assert BAD not in str(state)
            assert "RECK" not in str(state)
            assert "of_the_future" not in str(state["messages"][-1].content)
            assert "AAAA" not in str(state)


@pytest.mark.parametrize(
    "given",
    [
        ChatMessage("Hi", role=f"{BAD} it"),
        HumanMessage("Hi", note=f"{BAD} it"),
        HumanMessage([{"type": "text-plain", "base64": "V1JFQ0s=", "mime_type": "text/plain"}]),
        HumanMessage([{"type": "text-plain", "url": "https://example.org/a.txt", "text": "Hi"}]),
    ],
    ids=["role", "further field", "encoded text", "text elsewhere"],
)
def test_every_part_of_a_question_is_judged(given):
    model = hosted("one")
    agent_of(model, exit_behavior="replace").invoke({"messages": [given]})
    assert [message.text for message in model.read[0]] == [STOPPED]
    assert BAD not in str(vars(model.read[0][0]))


def test_an_answer_is_judged_as_one_to_a_question_in_blocks_of_any_kind():
    def yes_to_poison(prompts, responses):
        return [1.0 if "poison" in p and "Yes" in r else -1.0 for p, r in zip(prompts, responses, strict=True)]

    agent = create_agent(hosted("Yes"), middleware=[InferenceGuardMiddleware(yes_to_poison)])
    asked = [HumanMessage([{"type": "input_text", "text": "Shall I poison the well?"}])]
    assert agent.invoke({"messages": asked})["messages"][-1].text == STOPPED


def test_token_probabilities_of_a_flagged_answer_do_not_stay():
    said = AIMessage(f"{BAD} it", response_metadata={"logprobs": {"content": [{"token": BAD}]}, "model_name": "m"})
    message = agent_of(hosted(said), exit_behavior="replace").invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]
    assert BAD not in str(message)
    assert message.response_metadata["model_name"] == "m"


def test_media_are_stopped_unless_they_are_let_through():
    look = HumanMessage(
        [{"type": "text", "text": "What is this?"}, {"type": "image", "url": "https://example.org/a.png"}]
    )
    stopped = agent_of(hosted("never")).invoke({"messages": [look]})["messages"][-1]
    report = stopped.response_metadata["inference_guard"]
    assert (stopped.text, report["cost"]) == (STOPPED, None)
    assert "block of type 'image'" in report["reason"]
    model = hosted("A cat.", "never")
    assert agent_of(model, allow_media=True).invoke({"messages": [look]})["messages"][-1].text == "A cat."
    unknown = HumanMessage([{"type": "of_the_future", "x": 1}])
    assert agent_of(model, allow_media=True).invoke({"messages": [unknown]})["messages"][-1].text == STOPPED


def test_a_structured_answer_is_judged_as_its_reader_gets_it():
    class Plan(BaseModel):
        """A plan."""

        step: str

    agent = create_agent(
        hosted('{"step": "\\u0057RECK it"}'),
        response_format=ProviderStrategy(Plan),
        middleware=[InferenceGuardMiddleware(judge)],
    )
    state = agent.invoke({"messages": [HumanMessage("Hello")]})
    assert state.get("structured_response") is None
    assert state["messages"][-1].text == STOPPED


class Kept(BaseModel):
    """A plan that is not dumped as its reader gets it."""

    step: Base64Str
    more: SecretStr = SecretStr("")
    left_out: str = Field("", exclude=True)
    raw: bytes = b""


class Nested(TypedDict):
    """Plans in a plan."""

    step: Spelled


@dataclass
class Outer:
    """A plan in a plan."""

    step: Spelled


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (Nested, '{"step": {"words": "\\u0057RECK it"}}'),
        (Outer, '{"step": {"words": "\\u0057RECK it"}}'),
        (Kept, '{"step": "V1JFQ0sgaXQ="}'),
        (Kept, '{"step": "", "more": "\\u0057RECK"}'),
        (Kept, '{"step": "", "left_out": "\\u0057RECK"}'),
        (Kept, '{"step": "", "raw": "\\u0057RECK"}'),
    ],
    ids=["object in a mapping", "object in a dataclass", "decoded", "secret", "not dumped", "bytes"],
)
def test_a_structured_answer_of_any_class_is_judged_as_its_reader_gets_it(schema, text):
    agent = create_agent(
        hosted(text), response_format=ProviderStrategy(schema), middleware=[InferenceGuardMiddleware(judge)]
    )
    state = agent.invoke({"messages": [HumanMessage("Hello")]})
    assert state.get("structured_response") is None
    assert state["messages"][-1].text == STOPPED


def test_calls_are_judged_as_the_tool_gets_them():
    ran = []

    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        ran.append(what)
        return "found"

    def lines(prompts, responses):
        return [1.0 if "rm\n-rf" in response or '"quoted"' in response else -1.0 for response in responses]

    for what in ("rm\n-rf", 'a "quoted" word'):
        guard = InferenceGuardMiddleware(lines)
        create_agent(hosted(calling(what), "x"), [look_up], middleware=[guard]).invoke(
            {"messages": [HumanMessage("Hi")]}
        )
    assert ran == []


# ---- streams ----


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_model_inside_a_tool_is_not_streamed(how):
    inner = hosted(f"First {BAD} it", f"Then {BAD} it")

    @tool
    async def research(what: str) -> str:
        """Ask another model."""
        await inner.ainvoke(what)
        return "".join([piece.text async for piece in inner.astream(what)])[:5]

    @tool
    def study(what: str) -> str:
        """Ask another model."""
        inner.invoke(what)
        return "".join(piece.text for piece in inner.stream(what))[:5]

    name = "study" if how == "sync" else "research"
    said = AIMessage("", tool_calls=[{"name": name, "id": "1", "args": {"what": "moss"}}])
    agent = agent_of(hosted(said, "Moss is green."), [research, study])
    question = {"messages": [HumanMessage("Hello")]}
    modes = ["messages", "updates", "values"]
    if how == "sync":
        parts = list(agent.stream(question, stream_mode=modes))
    else:
        parts = [part async for part in agent.astream(question, stream_mode=modes)]
    assert BAD not in str(parts)
    shown = [message.text for mode, part in parts if mode == "messages" for message in part[:1]]
    assert shown == ["", "Then ", "Moss is green."]


async def test_a_model_inside_a_tool_gives_no_events():
    inner = hosted(f"First {BAD} it")

    @tool
    async def research(what: str) -> str:
        """Ask another model."""
        return "".join([piece.text async for piece in inner.astream(what)])[:5]

    said = AIMessage("", tool_calls=[{"name": "research", "id": "1", "args": {"what": "moss"}}])
    agent = agent_of(hosted(said, "Moss is green."), [research])
    events = [e async for e in agent.astream_events({"messages": [HumanMessage("Hello")]}, version="v2")]
    assert BAD not in str(events)
    assert "on_tool_end" in {e["event"] for e in events}


@pytest.mark.parametrize("mode", ["messages", "updates", "values", "debug", "tasks", "v3"])
async def test_an_agent_inside_a_tool_is_not_streamed(mode):
    inner = create_agent(hosted(f"First {BAD} it"))

    @tool
    async def research(what: str) -> str:
        """Ask another agent."""
        return (await inner.ainvoke({"messages": [HumanMessage(what)]}))["messages"][-1].text[:5]

    said = AIMessage("", tool_calls=[{"name": "research", "id": "1", "args": {"what": "moss"}}])
    agent, question = agent_of(hosted(said, "Moss is green."), [research]), {"messages": [HumanMessage("Hello")]}
    if mode == "v3":
        parts = [event async for event in await agent.astream_events(question, version="v3")]
    else:
        parts = [part async for part in agent.astream(question, stream_mode=mode, subgraphs=True)]
    assert BAD not in str(parts)
    assert "Moss is green." in str(parts)


def test_pieces_of_a_flagged_call_do_not_stay_in_a_message_of_pieces():
    pieces = [{"name": "look_up", "args": f'{{"what": "{BAD}"}}', "id": "1", "index": 0}]
    agent = agent_of(hosted(AIMessageChunk("", tool_call_chunks=pieces), "one"), [look_up], exit_behavior="replace")
    assert BAD not in str(list(agent.stream({"messages": [HumanMessage("Hello")]}, stream_mode="updates")))


def test_no_stream_shows_a_flagged_call():
    for behaviour in ("end", "replace"):
        agent = agent_of(hosted(calling(BAD), "one"), [look_up], exit_behavior=behaviour)
        modes = ["messages", "updates", "values"]
        assert BAD not in str(list(agent.stream({"messages": [HumanMessage("Hello")]}, stream_mode=modes)))
