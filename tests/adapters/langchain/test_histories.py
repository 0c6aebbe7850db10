"""Messages as they come: histories of other providers, counting of any piece, and answers to a last answer."""

import pytest
from langchain_core.messages import (
    AIMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langgraph.graph import END, START, MessagesState, StateGraph

from ig_plugins.errors import PromptError

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"name": "add", "args": {"a": 1}, "id": "1"}
TALK = [
    SystemMessage("Be kind."),
    HumanMessage("Hello, who are you?", name="ann"),
    AIMessage("I am here.", name="helper"),
    HumanMessage("Add one."),
    AIMessage("", tool_calls=[CALL]),
    ToolMessage("Two.", tool_call_id="1"),
    AIMessage("It is two."),
    HumanMessage("And now?"),
]


# ---- counting ----


@pytest.mark.parametrize("strategy", ["last", "first"])
@pytest.mark.parametrize("options", [{}, {"start_on": "human"}, {"include_system": True}, {"allow_partial": True}])
def test_trim_messages_counts_with_the_model(make_chat, strategy, options):
    chat = make_chat()
    if strategy == "first":
        options = {key: value for key, value in options.items() if key == "allow_partial"}
    for most in (5, 40, 80, 10_000):
        kept = trim_messages(TALK, max_tokens=most, strategy=strategy, token_counter=chat, **options)
        assert all(message in TALK or options.get("allow_partial") for message in kept)
        if kept and not options.get("include_system"):  # it is kept whatever it takes
            assert chat.get_num_tokens_from_messages(kept) <= most
    assert trim_messages(TALK, max_tokens=10_000, strategy=strategy, token_counter=chat) == TALK


def test_every_piece_of_a_conversation_has_a_count(make_chat):
    chat = make_chat()
    pieces = [[message] for message in TALK]
    pieces += [TALK[:n] for n in range(len(TALK) + 1)] + [TALK[n:] for n in range(len(TALK))]
    pieces += [[TALK[0]], [ToolMessage("x", tool_call_id="9")], [AIMessage("")], [HumanMessage([IMAGE])]]
    counts = [chat.get_num_tokens_from_messages(piece) for piece in pieces]
    assert all(isinstance(count, int) and count >= 0 for count in counts)
    assert chat.get_num_tokens_from_messages([]) == 0
    assert chat.get_num_tokens_from_messages(TALK) > chat.get_num_tokens_from_messages(TALK[1:])
    result = chat.invoke(TALK)
    assert chat.get_num_tokens_from_messages(TALK) == result.usage_metadata["input_tokens"]


# ---- histories ----


def asked(make_chat, messages, **options):
    """The prompt that the model read."""
    seen = []

    def answers(prompt):
        seen.append(prompt)
        return {"Fine.": 1.0}

    assert make_chat(answers).invoke(messages, **options).content == "Fine."
    return seen[0]


FOREIGN = {
    "thinking": ({"type": "thinking", "thinking": "SECRET", "signature": "x"}, ""),
    "redacted_thinking": ({"type": "redacted_thinking", "data": "SECRET"}, ""),
    "reasoning": ({"type": "reasoning", "reasoning": "SECRET"}, ""),
    "refusal": ({"type": "refusal", "refusal": "I will not."}, "I will not."),
    "server_tool_use": ({"type": "server_tool_use", "id": "1", "name": "search", "input": {"q": "SECRET"}}, ""),
    "non_standard": ({"type": "non_standard", "value": {"x": "SECRET"}}, ""),
    "output_text": ({"type": "output_text", "text": "Said.", "annotations": []}, "Said."),
    "text-plain": ({"type": "text-plain", "text": "Plain.", "mime_type": "text/plain"}, "Plain."),
    "text None": ({"type": "text", "text": None}, ""),
    "untyped": ({"text": "Bare."}, "Bare."),
    "image": (IMAGE, ""),
    "unheard of": ({"type": "hologram", "data": "SECRET"}, ""),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_blocks_of_other_providers_in_old_answers(make_chat, kind):
    block, words = FOREIGN[kind]
    answer = AIMessage([{"type": "text", "text": "Well. "}, block])
    prompt = asked(make_chat, [HumanMessage("Hi"), answer, HumanMessage("And?")])
    assert f"assistant\nWell. {words}\n" in prompt
    assert "SECRET" not in prompt
    alone = asked(make_chat, [HumanMessage("Hi"), AIMessage([block]), HumanMessage("And?")])
    assert alone.count("user\n") == 2


@pytest.mark.parametrize("block", [{"type": "input_text", "text": "Said."}, {"type": "text-plain", "text": "Said."}])
def test_words_of_other_providers_in_the_question(make_chat, block):
    assert "user\nSaid.\n" in asked(make_chat, [HumanMessage([block])])


def test_an_image_in_an_old_turn_leaves_a_mark_and_in_the_current_one_is_refused(make_chat):
    old = [HumanMessage([{"type": "text", "text": "See "}, IMAGE]), AIMessage("Nice."), HumanMessage("And now?")]
    assert "user\nSee [image_url left out]\n" in asked(make_chat, old)
    only = [HumanMessage([IMAGE]), AIMessage("Nice."), HumanMessage("And now?")]
    assert "user\n[image_url left out]\n" in asked(make_chat, only)
    with pytest.raises(PromptError, match="message 2 has content of type 'image_url'"):
        make_chat().invoke([*old[:2], HumanMessage([{"type": "text", "text": "See "}, IMAGE])])
    calls = AIMessage("", tool_calls=[CALL])
    with pytest.raises(PromptError, match="message 4 has content of type 'image_url'"):
        make_chat().invoke([*old, calls, ToolMessage([IMAGE], tool_call_id="1")])


def test_an_empty_old_message_is_left_out(make_chat):
    prompt = asked(make_chat, [HumanMessage(""), AIMessage("Hm?"), HumanMessage("Hi")])
    assert prompt.count("user\n") == 1
    with pytest.raises(PromptError, match="empty user message"):
        make_chat().invoke([HumanMessage("Hi"), AIMessage("Hm?"), HumanMessage("")])


def test_names_greetings_and_a_system_message_alone(make_chat):
    named = [HumanMessage("Hi", name="ann"), AIMessage("Hm?", name="b"), HumanMessage("Go", name="bob")]
    assert "assistant\nHm?" in asked(make_chat, named)
    greeted = asked(make_chat, [AIMessage("Welcome!"), HumanMessage("Hi")])
    assert greeted.index("assistant\nWelcome!") < greeted.index("user\nHi")
    assert "system\nSay hello." in asked(make_chat, [SystemMessage("Say hello.")])
    assert "Result of double: 4" in asked(make_chat, [HumanMessage("Hi"), FunctionMessage("4", name="double")])


def test_what_no_chat_format_has_is_named(make_chat):
    with pytest.raises(PromptError, match="no chat format has a role 'remove'"):
        make_chat().invoke([HumanMessage("Hi"), RemoveMessage(id="1")])


@pytest.mark.parametrize("where", ["human", "system", "ai", "tool", "arguments", "raw"])
def test_half_a_character_is_a_typed_error(make_chat, make_llm, where):
    half = "x\ud83d"
    talk = {
        "human": [HumanMessage(half)],
        "system": [SystemMessage(half), HumanMessage("Hi")],
        "ai": [HumanMessage("Hi"), AIMessage(half), HumanMessage("Hi")],
        "tool": [HumanMessage("Hi"), AIMessage("", tool_calls=[CALL]), ToolMessage(half, tool_call_id="1")],
        "arguments": [HumanMessage("Hi"), AIMessage("", tool_calls=[{**CALL, "args": {"a": half}}]), HumanMessage("x")],
        "raw": None,
    }[where]
    with pytest.raises(PromptError, match="lone surrogate"):
        make_llm().invoke(half) if talk is None else make_chat().invoke(talk)
    with pytest.raises(PromptError, match="lone surrogate"):
        make_chat().get_num_tokens(half) if talk is None else make_chat().get_num_tokens_from_messages(talk)


# ---- a last answer ----


def test_a_last_answer_is_followed_by_a_turn_of_its_own(make_chat):
    talk = [HumanMessage("Hi"), AIMessage("I found it.", name="researcher")]
    assert asked(make_chat, talk).rstrip().endswith("assistant\nI found it.\nassistant")
    assert asked(make_chat, talk, last_assistant="prefill").rstrip().endswith("assistant\nI found it.")
    chat = make_chat()
    told = [chat.invoke(messages, **options).response_metadata["inference_guard"]["last_assistant"]
            for messages, options in ((talk, {}), (talk, {"last_assistant": "prefill"}), (talk[:1], {}))]  # fmt: skip
    assert told == ["turn", "prefill", None]
    *_, last = chat.stream(talk)
    assert last.response_metadata["inference_guard"]["last_assistant"] == "turn"


def test_agents_that_speak_by_turns_all_have_something_to_say(make_chat):
    """Each sees the one before as the last message; as a continuation, the second would end at once."""

    def says(prompt):
        last = prompt.rsplit("assistant\n", 1)[1].strip()
        return {"": 1.0} if last else {f"I am number {prompt.count('I am') + 1}.": 1.0}

    chat = make_chat(says)
    graph = StateGraph(MessagesState)
    for name in ("first", "second", "third"):
        graph.add_node(name, lambda state: {"messages": [chat.invoke(state["messages"])]})
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", "third")
    graph.add_edge("third", END)
    state = graph.compile().invoke({"messages": [HumanMessage("Go")]})
    assert [message.content for message in state["messages"][1:]] == [f"I am number {n}." for n in (1, 2, 3)]
