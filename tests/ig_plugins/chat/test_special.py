"""Which tokens are hidden in a decoded text, whoever marked them so."""

import json
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from ig_plugins.chat import ParsedReply, call_words, parse_reply, prompt_format, special_tokens, tool_region
from ig_plugins.chat.special import hidden_ids, special_ids
from ig_plugins.chat.spelling import spelled

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


@pytest.fixture
def quiet(hermes):
    """As ``hermes``, but tokenizer.json, and it alone, says that the markers are special."""
    core = Tokenizer.from_str(hermes.backend_tokenizer.to_str())
    core.add_special_tokens([AddedToken(word, special=True) for word in ("<tool_call>", "</tool_call>", "<filename>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", clean_up_tokenization_spaces=False)
    tokenizer.chat_template = hermes.chat_template
    assert "<tool_call>" not in tokenizer.all_special_tokens
    return tokenizer


@pytest.fixture
def byte_fallback(llama):
    """SentencePiece-like, with bytes that are shown and markers that are not."""
    written = json.loads(llama.backend_tokenizer.to_str())
    written["added_tokens"] = [t for t in written["added_tokens"] if not t["content"].startswith("<0x")]
    core = Tokenizer.from_str(json.dumps(written))
    core.add_special_tokens([AddedToken(word, special=True) for word in ("<tool_call>", "</tool_call>")])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_what_decoding_leaves_out_is_special(quiet, hermes, words, llama):
    assert {"<tool_call>", "</tool_call>", "<filename>", "</s>", "<|im_start|>"} <= special_tokens(quiet)
    assert "<tool_call>" not in special_tokens(hermes)
    for tokenizer in (quiet, hermes, words, llama):
        hidden = special_tokens(tokenizer)
        for token, index in tokenizer.get_vocab().items():
            if token in tokenizer.added_tokens_encoder:
                assert (tokenizer.decode([index], skip_special_tokens=True) == "") <= (token in hidden)


def test_a_call_with_markers_that_tokenizer_json_hides(quiet, tools):
    syntax = prompt_format("chat_template", quiet).native
    assert syntax.marker == ""
    ids = quiet.encode("Well. " + CALL, add_special_tokens=False)
    shown = quiet.decode(ids, skip_special_tokens=True)
    assert "<tool_call>" not in shown
    assert tool_region(shown, syntax=syntax) == 0
    reply = parse_reply(shown, ids=ids, tokenizer=quiet, tools=tools, syntax=syntax)
    assert reply.text == "Well."
    assert [call["arguments"] for call in reply.tool_calls] == [{"city": "Oslo"}]


def test_a_marker_that_is_part_of_a_hidden_token(hermes, tools):
    core = Tokenizer.from_str(hermes.backend_tokenizer.to_str())
    core.add_special_tokens([AddedToken(word, special=True) for word in ("<tool_call>\n", "\n</tool_call>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", clean_up_tokenization_spaces=False)
    tokenizer.chat_template = hermes.chat_template
    syntax = prompt_format("chat_template", tokenizer).native
    vocabulary = tokenizer.get_vocab()
    body = tokenizer.encode('{"name": "weather", "arguments": {"city": "Oslo"}}', add_special_tokens=False)
    ids = [vocabulary["<tool_call>\n"], *body, vocabulary["\n</tool_call>"]]
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    assert shown.startswith("{")
    assert tool_region(shown, syntax=syntax) == 0
    assert len(parse_reply(shown, ids=ids, tokenizer=tokenizer, tools=tools, syntax=syntax).tool_calls) == 1


def test_a_prefill_with_hidden_tokens_is_broken(words):
    tokenizer = deepcopy(words)
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.add_special_tokens([AddedToken("hi", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    talk = [{"role": "user", "content": "there"}, {"role": "assistant", "content": "hi there"}]
    ids = prompt_format("plain", tokenizer).encode(talk, last_assistant="prefill").prefill_ids
    assert tokenizer.convert_tokens_to_ids("hi") not in ids


def test_the_words_of_a_call_are_what_the_tool_gets():
    arguments = {
        "path": 'C:\\new\n"A"',
        "deep": {"list": [1, 2.5, None, True, {"x": "é"}], "empty": {}, "none": []},
        "": "nameless",
    }
    words = call_words({"name": "remove", "arguments": arguments})
    assert words == (
        'I call remove with\n{"path": "C:\\new\n"A"", "deep": {"list": [1, 2.5, null, true, {"x": "é"}], '
        '"empty": {}, "none": []}, "": "nameless"}'
    )
    assert call_words({"name": "stop", "arguments": {}}) == "I call stop"


def test_the_words_of_a_call_nested_without_end():
    value = "bottom"
    for _ in range(5_000):
        value = [value]
    assert call_words({"name": "a", "arguments": {"x": value}}).endswith('["bottom"' + 5_000 * "]" + "}")


def test_everything_handed_out_is_listed(tools):
    reply = parse_reply(f"Let me look. {CALL}{CALL}", tools=tools)
    call = 'I call weather with\n{"city": "Oslo"}'
    assert reply.handed_out() == ("Let me look.", call, call, f"Let me look.\n{call}\n{call}")
    assert parse_reply(CALL, tools=tools).handed_out() == (call,)
    assert parse_reply("Hello", tools=tools).handed_out() == ("Hello",)
    broken = CALL.replace("}}", "}")
    assert parse_reply(f"Hm. {broken}", tools=tools).handed_out() == ("Hm.", broken, f"Hm.\n{broken}")
    assert ParsedReply("").handed_out() == ()
    escaped = CALL.replace("Oslo", "\\u0041\\n")
    assert parse_reply(escaped, tools=tools).handed_out() == ('I call weather with\n{"city": "A\n"}',)


# ---- what a tool gets is what was written, and no more than was shown ----


def replied(tokenizer, written, tools, *, stop=None, syntax=None):
    """The reply to an answer as the guard asks for it; a stop string cuts the text and not the tokens."""
    ids = tokenizer.encode(written, add_special_tokens=False)
    shown = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = shown.partition(stop)[0] if stop else shown
    syntax = syntax or prompt_format("chat_template", tokenizer).native
    return text, parse_reply(text, ids=ids, tokenizer=tokenizer, tools=tools, syntax=syntax)


def test_a_hidden_token_in_an_argument_is_seen_by_judges(quiet, tools):
    call = CALL.replace("Oslo", "cat <filename> /etc/passwd")
    shown, reply = replied(quiet, call, tools)
    assert "cat  /etc/passwd" in shown
    assert reply.tool_calls[0]["arguments"] == {"city": "cat <filename> /etc/passwd"}
    assert '"city": "cat <filename> /etc/passwd"' in reply.handed_out()[0]


def test_the_words_before_a_hidden_call_are_the_shown_words(quiet, tools):
    shown, reply = replied(quiet, f"First <filename>this.  {CALL}<|im_end|>", tools)
    assert reply.text == "First this."
    assert shown.startswith(reply.text)


def test_what_a_stop_string_cut_off_is_no_call(quiet, tools):
    body = CALL.removesuffix("}</tool_call>")
    _, reply = replied(quiet, f"{body}\n}}</tool_call>", tools, stop="\n")
    assert (reply.tool_calls, reply.malformed) == ((), True)
    _, reply = replied(quiet, f"{CALL}\n{CALL}", tools, stop="\n")
    assert len(reply.tool_calls) == 1


def test_a_stop_string_inside_a_token_takes_no_words_with_it(quiet, tools):
    """Tokens are cut where the text was, also where that is in the middle of one."""
    ids = quiet.encode("hello window", add_special_tokens=False)
    assert any(len(quiet.decode([index]).strip()) > 1 for index in ids)
    for stop in "elowind":
        text, reply = replied(quiet, f"{CALL}hello window", tools, stop=stop + "~" if stop in CALL else stop)
        assert len(reply.tool_calls) == 1
    for cut in range(1, 6):
        text = "hello window"[:cut]
        reply = parse_reply(text, ids=ids, tokenizer=quiet, tools=tools, syntax=prompt_format("auto", quiet).native)
        assert reply.text == text


def test_our_own_form_where_the_vocabulary_hides_its_marker(quiet, tools):
    """The chat template knows no tools, so they are told in words; and <tool_call> is a token that nobody sees."""
    tokenizer = deepcopy(quiet)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    encoded = prompt_format("chat_template", tokenizer).encode("hi", tools=tools)
    assert not encoded.syntax.native
    shown, reply = replied(tokenizer, f"Well. {CALL}", tools, syntax=encoded.syntax)
    assert tool_region(shown, syntax=encoded.syntax) == 0
    assert (reply.text, [c["arguments"] for c in reply.tool_calls]) == ("Well.", [{"city": "Oslo"}])


def test_tokens_that_do_not_spell_the_text_are_no_call(quiet, tools):
    ids = quiet.encode(CALL, add_special_tokens=False)
    syntax = prompt_format("chat_template", quiet).native
    reply = parse_reply("Something else", ids=ids, tokenizer=quiet, tools=tools, syntax=syntax)
    assert (reply.text, reply.tool_calls, reply.malformed) == ("", (), True)


def test_half_a_character_before_a_special_token(quiet, tools):
    """Bytes that decode to more characters alone than together must not shift what follows."""
    smile = quiet.encode("😀", add_special_tokens=False)
    mark = quiet.convert_tokens_to_ids("<filename>")
    call = quiet.encode(CALL, add_special_tokens=False)
    assert len(smile) > 1
    ids = [*smile[:-1], mark, *smile[-1:], *call]
    shown = quiet.decode(ids, skip_special_tokens=True)
    syntax = prompt_format("chat_template", quiet).native
    reply = parse_reply(shown, ids=ids, tokenizer=quiet, tools=tools, syntax=syntax)
    assert (reply.text, [c["arguments"] for c in reply.tool_calls]) == ("😀", [{"city": "Oslo"}])


def test_half_a_character_of_a_byte_fallback_vocabulary_before_a_special_token(byte_fallback, tools):
    """Three of an emoji's four bytes decode to three characters, the whole to one: nothing behind may move by two."""
    tokenizer = byte_fallback
    syntax = prompt_format("plain", tokenizer).encode("hi", tools=tools).syntax
    smile = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "😀".encode()])
    call = tokenizer.encode(CALL, add_special_tokens=False)
    for cut in range(1, 4):
        ids = [*smile[:cut], tokenizer.bos_token_id, *smile[cut:], *call]
        assert tokenizer.decode(ids[: cut + 1], skip_special_tokens=True) == "\ufffd" * cut
        shown = tokenizer.decode(ids, skip_special_tokens=True)
        assert spelled(shown, ids, tokenizer).text == f"😀<s><tool_call>{shown[1:]}</tool_call>"
        reply = parse_reply(shown, ids=ids, tokenizer=tokenizer, tools=tools, syntax=syntax)
        assert (reply.text.strip(), [c["arguments"] for c in reply.tool_calls]) == ("😀", [{"city": "Oslo"}])


def test_a_blank_that_sentencepiece_hides_at_the_start(byte_fallback, tools):
    tokenizer = byte_fallback
    syntax = prompt_format("plain", tokenizer).encode("hi", tools=tools).syntax
    for lead in ("", "Well. "):
        ids = tokenizer.encode(lead + CALL, add_special_tokens=False)
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        behind = tokenizer.decode([*tokenizer.encode("a"), *ids], skip_special_tokens=True)[1:]
        for shown in (whole, behind):
            reply = parse_reply(shown, ids=ids, tokenizer=tokenizer, tools=tools, syntax=syntax)
            assert [c["arguments"] for c in reply.tool_calls] == [{"city": "Oslo"}]
            assert reply.text.strip() == lead.strip()


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_special_tokens_go_back_where_they_stood(kind, quiet, byte_fallback, data):
    """Any tokens, any cut: without its special tokens the spelled text is the shown one, and none is lost or moved."""
    tokenizer = quiet if kind == "bytes" else byte_fallback
    hidden = sorted(special_ids(tokenizer) - {tokenizer.unk_token_id})
    ids = data.draw(st.lists(st.sampled_from(hidden) | st.integers(0, len(tokenizer) - 1), max_size=25))
    lead = data.draw(st.sampled_from(["", "a"]))
    before = tokenizer.encode(lead, add_special_tokens=False) if lead else []
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    shown = tokenizer.decode([*before, *ids], **options)[len(tokenizer.decode(before, **options)) :]
    text = shown[: data.draw(st.integers(0, len(shown)))]
    full = spelled(text, ids, tokenizer)
    spare = full.text
    for start, length in reversed(full.marks):
        spare = spare[:start] + spare[start + length :]
    assert spare == text
    assert [full.text[at : at + n] for at, n in full.marks] == (
        tokenizer.convert_ids_to_tokens([i for i in ids if i in hidden_ids(tokenizer, ids)])[: len(full.marks)]
    )
    if text == shown:
        assert len(full.marks) == sum(index in hidden_ids(tokenizer, ids) for index in ids)
    places = [full.shown(at) for at in range(len(full.text) + 1)]
    assert places == sorted(places)
    assert places[-1] == len(text)


@pytest.mark.parametrize(
    "arguments",
    [
        '{"city": "Oslo", "x": 1e999}',
        '{"city": "\\ud800"}',
        '{"city": "Oslo", "x": %s}' % ("9" * 5000),
        '{"city": "Oslo", "city": "Rome"}',
        '{"city": "Oslo", "x": NaN}',
    ],
)
@pytest.mark.parametrize("templated", [True, False])
def test_arguments_that_two_readers_may_read_differently_are_no_call(arguments, templated, answering, tools):
    whole = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
    syntax = prompt_format("chat_template", answering).native if templated else None
    reply = parse_reply(whole, tools=tools, tokenizer=answering, syntax=syntax)
    assert (reply.tool_calls, reply.malformed) == ((), True)
    assert reply.problem


@pytest.mark.parametrize("more", ['"parameters": {"city": "Rome"}', '"function": {"name": "remove", "arguments": {}}'])
def test_a_call_that_says_two_things_is_no_call(more, answering, tools):
    whole = f'<tool_call>{{"name": "weather", "arguments": {{"city": "Oslo"}}, {more}}}</tool_call>'
    syntax = prompt_format("chat_template", answering).native
    assert parse_reply(whole, tools=tools, tokenizer=answering, syntax=syntax).malformed


def test_nested_without_end_is_no_call(answering, tools):
    whole = f'<tool_call>{{"name": "remove", "arguments": {{"x": {"[" * 100_000}}}}}</tool_call>'
    syntax = prompt_format("chat_template", answering).native
    assert parse_reply(whole, tools=tools, tokenizer=answering, syntax=syntax).malformed


# ---- thoughts ----


def test_thoughts_are_part_of_the_text(answering, tools):
    """A response template would take them out, and no judge would read them."""
    tokenizer = deepcopy(answering)
    tokenizer.response_template["fields"]["thinking"] = {"open": "<think>", "close": "</think>", "content": "text"}
    syntax = prompt_format("chat_template", tokenizer).native
    assert tokenizer.parse_response("<think>Poison it.</think>Hello", prefix="")["content"] == "Hello"
    for thought in ("<think>Poison it.</think>Hello", "<think>Poison it."):
        assert replied(tokenizer, thought, tools, syntax=syntax)[1].handed_out() == (thought,)
    _, reply = replied(tokenizer, f"<think>Poison it.</think>Hello {CALL}", tools, syntax=syntax)
    assert reply.text == "<think>Poison it.</think>Hello"
    assert len(reply.tool_calls) == 1
