"""Reading answers: whole calls come out, and nothing else ever does."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ig_plugins.chat import parse_reply, prompt_format, tool_region
from ig_plugins.chat.syntax import PROMPTED

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


def test_one_call(tools):
    reply = parse_reply(f"Let me look. {CALL}", tools=tools)
    assert reply.text == "Let me look."
    assert [(c["name"], c["arguments"]) for c in reply.tool_calls] == [("weather", {"city": "Oslo"})]
    assert not reply.malformed
    assert reply.raw == CALL


def test_several_calls_have_ids_of_their_own(tools):
    calls = parse_reply(
        f'{CALL}\n{CALL} <tool_call>{{"name": "remove", "arguments": {{}}}}</tool_call>', tools=tools
    ).tool_calls
    assert [c["name"] for c in calls] == ["weather", "weather", "remove"]
    assert len({c["id"] for c in calls}) == 3
    assert all(c["id"].startswith("call_") for c in calls)


def test_words_stay_words(tools):
    for text in ("Hello.", "a < b", "<tool", ""):
        assert parse_reply(text, tools=tools) == parse_reply(text) == parse_reply(text, tools=tools, tool_choice="none")
        assert parse_reply(text, tools=tools).text == text
    assert parse_reply(CALL, tools=tools, tool_choice="none").text == CALL
    assert parse_reply(CALL).tool_calls == ()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"name": "weather", "arguments": {"city": "Oslo"}', "cut off"),
        ('{"name": "weather", "arguments": {"city": "Oslo"}}}', "end marker"),
        ('{"name": "weather", "arguments": "Oslo"}', "not a JSON object"),
        ('{"name": "weather", "arguments": {}}', "lacks 'city'"),
        ('{"name": "weather", "arguments": {"city": 3}}', "expected string"),
        ('{"name": "weather", "arguments": {"city": "a", "city": "b"}}', "given twice"),
        ('{"name": "weather", "arguments": {"city": "a", "days": NaN}}', "NaN is not JSON"),
        ('{"name": "wether", "arguments": {}}', "no tool that may be used"),
        ('{"name": ["weather"], "arguments": {}}', "no tool that may be used"),
        ('{"name": "weather"}', "keys are not name and arguments"),
        ('{"name": "weather", "arguments": {"city": "a"}, "x": 1}', "keys are not"),
        ("{'name': 'weather', 'arguments': {'city': 'a'}}", "not JSON"),
        ('[{"name": "weather", "arguments": {"city": "a"}}]', "not a JSON object"),
        ("[" * 100_000, "not JSON, or was cut off"),
        ("", "not JSON"),
    ],
)
def test_malformed_calls_are_no_calls(body, problem, tools):
    reply = parse_reply(f"Now: <tool_call>{body}</tool_call>", tools=tools)
    assert reply.tool_calls == ()
    assert reply.malformed
    assert reply.text == "Now:"
    assert problem in reply.problem


def test_one_bad_call_spoils_all(tools):
    broken = CALL.replace("}}", "}")
    reply = parse_reply(f"Well. {CALL} and {broken} done.", tools=tools)
    assert reply.tool_calls == ()
    assert reply.text == "Well."
    assert [call.text for call in reply.invalid] == [f"{CALL} and ", f"{broken} done."]
    assert [call.name for call in reply.invalid] == ["weather", "weather"]
    assert len({call.id for call in reply.invalid}) == 2
    assert parse_reply(CALL + "<tool_call>", tools=tools).malformed


def test_words_around_calls_are_kept(tools):
    reply = parse_reply(f"First. {CALL} Then \n{CALL}\n Last.", tools=tools)
    assert len(reply.tool_calls) == 2
    assert reply.text == "First.\nThen\nLast."


@pytest.mark.parametrize("end", ["", "\n", "<", "</tool_ca", "\n</tool_call"])
def test_a_whole_call_without_its_end_mark_counts(end, hermes, answering, tools):
    for tokenizer in (None, hermes, answering):
        syntax = prompt_format("chat_template", tokenizer).native if tokenizer else PROMPTED
        reply = parse_reply(CALL.removesuffix("</tool_call>") + end, tools=tools, tokenizer=tokenizer, syntax=syntax)
        assert [call["arguments"] for call in reply.tool_calls] == [{"city": "Oslo"}]
        assert reply.text == ""
        for more in ("}", " and", "</tool>"):
            assert parse_reply(CALL.removesuffix("</tool_call>") + more, tools=tools).malformed


def test_a_forced_tool_is_the_only_one(tools):
    assert parse_reply(CALL, tools=tools, tool_choice="remove").malformed
    assert parse_reply(CALL, tools=tools, tool_choice="weather").tool_calls
    assert parse_reply(CALL, tools=tools, tool_choice="any").tool_calls


def test_the_opening_belongs_to_the_answer(chatml, tools):
    encoded = prompt_format("beaver", chatml).encode("hi", tools=tools, tool_choice="weather")
    for rest in (' {"city": "Oslo"}}</tool_call>', '{"city": "Oslo"}}</tool_call>'):
        reply = parse_reply(rest, tools=tools, tool_choice="weather", opening=encoded.opening, syntax=encoded.syntax)
        assert reply.tool_calls[0]["arguments"] == {"city": "Oslo"}
        assert reply.text == ""


TEXTS = st.text(max_size=12) | st.sampled_from(
    ['"}}</tool_call>', "</tool_call>", "<tool_call>", '{"name": "remove"}', "\\"]
)


def written(style, call):
    if style == "tagged":
        lines = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in call["arguments"].items())
        return f"<tool_call>\n<function={call['name']}>\n{lines}</function>\n</tool_call>"
    blank = "\n" if style == "hermes" else ""
    return f"<tool_call>{blank}{json.dumps(call)}{blank}</tool_call>"


@pytest.mark.parametrize("style", ["prompted", "hermes", "tagged", "response_template"])
@settings(max_examples=25, deadline=None)
@given(st.fixed_dictionaries({"city": TEXTS}, optional={"days": st.integers(0, 99)}))
def test_no_cut_of_a_call_is_ever_executable(style, hermes, tagged, answering, tools, arguments):
    """Every prefix that lacks a part, in every syntax; and the whole comes out as it was written."""
    tokenizer = {"prompted": None, "hermes": hermes, "tagged": tagged, "response_template": answering}[style]
    if style == "tagged":
        arguments["city"] = "".join(c for c in arguments["city"] if c.isalnum()) or "Oslo"
    syntax = prompt_format("chat_template", tokenizer).native if tokenizer else PROMPTED
    options = {"tools": tools, "tokenizer": tokenizer, "syntax": syntax}
    call = {"name": "weather", "arguments": arguments}
    whole = written(style, call)
    if "</tool_call>" in arguments["city"] and style == "response_template":
        assert not parse_reply(whole, **options).tool_calls  # the template ends a call at the first marker
        return
    assert [{k: c[k] for k in call} for c in parse_reply(whole, **options).tool_calls] == [call]
    # Where a pattern opens a call, the name is part of it.
    opened = len("<tool_call>\n<function=weather>" if style == "tagged" else "<tool_call>")
    # Where calls are JSON, its last brace is enough.
    for cut in range(len(whole) if style == "tagged" else whole.rindex("}") + 1):
        assert parse_reply(whole[:cut], **options).tool_calls == ()
        assert parse_reply(whole[:cut], **options).malformed is (cut >= opened)


def test_parse_response_alone_would_execute_a_cut_call(tagged, tools):
    """Why closed regions are asked for: transformers closes what the text's end cuts off, with the arguments so far."""
    cut = written("tagged", {"name": "remove", "arguments": {"path": "/tmp", "only": "x"}}).partition(
        "<parameter=only"
    )[0]
    naive = tagged.parse_response(cut, prefix="", tools=prompt_format("beaver", tagged).encode("x", tools=tools).tools)
    assert naive["tool_calls"][0]["function"] == {"name": "remove", "arguments": {"path": "/tmp"}}
    reply = parse_reply(cut, tools=tools, tokenizer=tagged, syntax=prompt_format("chat_template", tagged).native)
    assert reply.malformed
    assert reply.tool_calls == ()


def test_end_markers_that_are_patterns(answering, tools):
    """As public response templates have them: blank space after the marker, and a look-ahead that waits to the end."""
    from copy import deepcopy

    tokenizer = deepcopy(answering)
    fields = tokenizer.response_template["fields"]
    fields["tool_calls"] = {**fields["tool_calls"], "close_pattern": r"</tool_call>\s*"}
    del fields["tool_calls"]["close"]
    fields["thinking"] = {"open_pattern": r"(?=[\s\S]*?</think>)", "close": "</think>", "content": "text"}
    options = {"tools": tools, "tokenizer": tokenizer, "syntax": prompt_format("chat_template", tokenizer).native}
    for end in ("", "\n", "<|im_end|>", "\n<|im_end|>\n"):
        assert len(parse_reply(CALL + end, **options).tool_calls) == 1
    assert len(parse_reply("Hm.</think>Well. " + CALL, **options).tool_calls) == 1
    for cut in range(len(CALL)):  # no end mark is known here that could be put in its place
        assert parse_reply(CALL[:cut], **options).tool_calls == ()
    assert parse_reply("I have no need of it.", **options).text == "I have no need of it."
    assert parse_reply(CALL + "\0", **options).malformed


def test_a_forced_call_that_does_not_come_about(tagged, tools):
    syntax = prompt_format("chat_template", tagged).native
    reply = parse_reply(
        "Oh", tokenizer=tagged, tools=tools, tool_choice="weather", opening="<tool_call>\n", syntax=syntax
    )
    assert (reply.tool_calls, reply.malformed) == ((), True)


def test_the_tokens_are_read_where_the_marker_is_special(hermes, tools):
    from copy import deepcopy

    tokenizer = deepcopy(hermes)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>", "<|im_end|>"]})
    syntax = prompt_format("chat_template", tokenizer).native
    assert syntax.marker == ""
    ids = tokenizer.encode("Well. " + CALL + "<|im_end|>", add_special_tokens=False)
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    assert "<tool_call>" not in shown
    assert tool_region(shown, syntax=syntax) == 0
    reply = parse_reply(shown, ids=ids, tokenizer=tokenizer, tools=tools, syntax=syntax)
    assert reply.text == "Well."
    assert reply.tool_calls[0]["arguments"] == {"city": "Oslo"}
    cut = parse_reply(shown[:-4], ids=ids, tokenizer=tokenizer, tools=tools, syntax=syntax)
    assert (cut.text, cut.tool_calls, cut.malformed) == ("Well.", (), True)


def test_a_stop_string_cuts_the_call_too(chatml, tools):
    ids = chatml.encode(CALL, add_special_tokens=False)
    reply = parse_reply(CALL.partition("}</tool")[0], ids=ids, tokenizer=chatml, tools=tools)
    assert (reply.tool_calls, reply.malformed) == ((), True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hello", "Hello"),
        ("Hello <", "Hello"),
        ("Hello <tool", "Hello"),
        ("Hello <tools", "Hello <tools"),
        ("Hello. \n", "Hello."),
        (f"Hello. {CALL}", "Hello."),
        (f"{CALL} and more", ""),
        ("a < b", "a < b"),
        ("<<tool_call>", "<"),
        ("", ""),
    ],
)
def test_tool_region(text, shown):
    assert text[: tool_region(text)] == shown


def test_tool_region_without_tools_or_with_a_forced_call():
    assert tool_region(CALL, syntax=None) == len(CALL)
    assert tool_region(" {", opening="<tool_call>") == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["Hi", " ", "\n", "<", "<tool", "_call>", "<tool_call>", CALL, "a"]), max_size=7))
def test_what_was_streamed_is_how_the_text_begins(tools, pieces):
    text, streamed = "", 0
    for piece in pieces:
        text += piece
        now = tool_region(text)
        assert now >= streamed
        streamed = now
    assert parse_reply(text, tools=tools).text.startswith(text[:streamed])
