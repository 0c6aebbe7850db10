"""Which tokens are hidden in a decoded text, whoever marked them so."""

from copy import deepcopy

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from ig_plugins.chat import ParsedReply, call_words, parse_reply, prompt_format, special_tokens, tool_region

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


def test_a_prefill_with_hidden_tokens_is_broken(words):
    tokenizer = deepcopy(words)
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.add_special_tokens([AddedToken("hi", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    talk = [{"role": "user", "content": "there"}, {"role": "assistant", "content": "hi there"}]
    ids = prompt_format("plain", tokenizer).encode(talk).prefill_ids
    assert tokenizer.convert_tokens_to_ids("hi") not in ids


def test_the_words_of_a_call_are_what_the_tool_gets():
    arguments = {
        "path": 'C:\\new\n"A"',
        "deep": {"list": [1, 2.5, None, True, {"x": "é"}], "empty": {}, "none": []},
        "": "nameless",
    }
    words = call_words({"name": "remove", "arguments": arguments})
    assert words.startswith('remove\npath: C:\\new\n"A"\n')
    for line in ("deep.list[0]: 1", "deep.list[2]: null", "deep.list[3]: true", "deep.list[4].x: é", "deep.empty: {}"):
        assert line in words.splitlines()
    assert words.endswith("deep.none: []\n: nameless")
    assert call_words({"name": "stop", "arguments": {}}) == "stop"


def test_the_words_of_a_call_nested_without_end():
    value = "bottom"
    for _ in range(5_000):
        value = [value]
    assert call_words({"name": "a", "arguments": {"x": value}}).endswith("[0]: bottom")


def test_everything_handed_out_is_listed(tools):
    reply = parse_reply(f"Let me look. {CALL}{CALL}", tools=tools)
    call = "weather\ncity: Oslo"
    assert reply.handed_out() == ("Let me look.", call, call, f"Let me look.\n{call}\n{call}")
    assert parse_reply(CALL, tools=tools).handed_out() == (call,)
    assert parse_reply("Hello", tools=tools).handed_out() == ("Hello",)
    assert parse_reply(f"Hm. {CALL[:-1]}", tools=tools).handed_out() == ("Hm.",)
    assert ParsedReply("").handed_out() == ()
    escaped = CALL.replace("Oslo", "\\u0041\\n")
    assert parse_reply(escaped, tools=tools).handed_out() == ("weather\ncity: A\n",)
