"""What users of any LangChain model expect to work: constructors, fallbacks, limits, configuration, checkpoints."""

from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command, interrupt
from pydantic import ValidationError

from langchain_inferenceguard import ChatInferenceGuard, GuardBlockedError, InferenceGuardLLM
from tests.kit.guards import MARKER
from tests.kit.tool_caller import CALL, tool_caller


@tool
def double(number: int) -> str:
    """Double a number."""
    return f"{number * 2}."


# ---- constructors ----


@pytest.mark.parametrize("kind", [ChatInferenceGuard, InferenceGuardLLM])
@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"model_name": "tiny-beaver"}, "model", "tiny-beaver"),
        ({"model_id": "tiny-beaver"}, "model", "tiny-beaver"),
        ({"model": Path("some") / "folder"}, "model", "some/folder"),
        ({"model": "tiny-beaver", "stop": "x"}, "stop", ["x"]),
        ({"model": "tiny-beaver", "stop": ("x", "y")}, "stop", ["x", "y"]),
        ({"model": "tiny-beaver", "stop_sequences": ["x"]}, "stop", ["x"]),
        ({"model": "tiny-beaver", "schedule": 4}, "schedule", (4,)),
        ({"model": "tiny-beaver", "certificate": Path("c.json")}, "certificate", "c.json"),
        ({"model": "tiny-beaver", "max_new_tokens": 7}, "max_tokens", 7),
    ],
)
def test_constructors_take_what_users_type(kind, given, name, value):
    made = kind(**given)
    assert getattr(made, name) == value
    assert made.model_name == made.model


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"timeout": (5, 60)}, "give one number of seconds"),
        ({"model_name": "other"}, "model_name"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_cannot_be_taken_is_named(given, says):
    with pytest.raises(ValidationError, match=says):
        ChatInferenceGuard(model="tiny-beaver", **given)


# ---- runnables ----


async def test_fallbacks_take_over_where_the_guard_blocks(make_chat):
    strict, mild = make_chat({MARKER: 1.0}, on_block="raise"), make_chat({"Fine.": 1.0})
    chain = strict.with_fallbacks([mild], exceptions_to_handle=(GuardBlockedError,))
    assert chain.invoke("Go").content == "Fine."
    assert (await chain.ainvoke("Go")).content == "Fine."
    assert "".join(chunk.content for chunk in chain.stream("Go")) == "Fine."


def test_rate_limiters_are_asked(make_chat):
    asked = []

    class Watched(InMemoryRateLimiter):
        def acquire(self, *, blocking=True):
            asked.append(blocking)
            return super().acquire(blocking=blocking)

    chat = make_chat(fields={"rate_limiter": Watched(requests_per_second=1000)})
    chat.invoke("Hi")
    list(chat.stream("Hi"))
    assert asked == [True, True]


def test_configurable_fields_change_a_call(make_chat):
    chat = make_chat({"One two three": 1.0}).configurable_fields(stop=ConfigurableField(id="stop"))
    assert chat.invoke("Go").content == "One two three"
    assert chat.invoke("Go", config={"configurable": {"stop": ["two"]}}).content == "One "
    assert chat.with_config(configurable={"stop": ["three"]}).invoke("Go").content == "One two "


def test_alternatives_and_retries_wrap_it(make_chat):
    chat = make_chat({"One.": 1.0}).configurable_alternatives(
        ConfigurableField(id="which"), default_key="one", two=make_chat({"Two.": 1.0})
    )
    assert chat.invoke("Go").content == "One."
    assert chat.with_config(configurable={"which": "two"}).invoke("Go").content == "Two."
    assert make_chat({"One.": 1.0}).with_retry().invoke("Go").content == "One."


def test_init_chat_model_takes_no_further_provider():
    """As docs/langchain.md says; what it offers there is this."""
    from langchain.chat_models import init_chat_model

    with pytest.raises(ValueError, match="inferenceguard"):
        init_chat_model("tiny-beaver", model_provider="inferenceguard")
    chat = ChatInferenceGuard(model="tiny-beaver", candidates=2, beams=1, max_tokens=4, seed=1)
    chosen = chat.configurable_fields(model=ConfigurableField(id="model"))
    for config, name in (({}, "tiny-beaver"), ({"configurable": {"model": "tiny-alpaca"}}, "tiny-alpaca")):
        assert chosen.invoke("Hi", config).response_metadata["model_name"] == name


# ---- checkpoints ----


def test_checkpointers_bring_a_conversation_back(make_chat):
    saver = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    agent = create_agent(make_chat(tool_caller), [double], checkpointer=saver)
    agent.invoke({"messages": [HumanMessage("What is double of 21?")]}, config)
    again = create_agent(make_chat(tool_caller), [double], checkpointer=saver)
    state = again.invoke({"messages": [HumanMessage("And of 4?")]}, config)
    assert [m.content for m in state["messages"] if m.type == "ai" and m.content] == [
        "The tool said 42.",
        "The tool said 8.",
    ]


@pytest.mark.parametrize("answer", ["Fine.", CALL % ("double", '{"number": 4}'), CALL % ("double", "{}"), MARKER])
def test_messages_survive_msgpack_whole(make_chat, answer):
    message = make_chat({answer: 1.0}).bind_tools([double]).invoke("Go")
    serde = JsonPlusSerializer()
    back = serde.loads_typed(serde.dumps_typed(message))
    assert back == message
    assert isinstance(back, AIMessage)
    assert back.response_metadata["inference_guard"] == message.response_metadata["inference_guard"]


def test_a_human_approves_before_a_tool_runs(make_chat):
    ran = []

    @tool
    def act(order: str) -> str:
        """Act."""
        if interrupt(f"May I {order}?") != "yes":
            return "refused"
        ran.append(order)
        return "done"

    agent = create_agent(make_chat(tool_caller), [act], checkpointer=InMemorySaver())
    for thread, word in (("1", "no"), ("2", "yes")):
        config = {"configurable": {"thread_id": thread}}
        asked = agent.invoke({"messages": [HumanMessage("Please 'dance'")]}, config)
        assert asked["__interrupt__"][0].value == "May I dance?"
        agent.invoke(Command(resume=word), config)
    assert ran == ["dance"]
