"""What a caller says becomes a grammar, or an error that names what is wrong, before any model is looked at."""

import json
from dataclasses import replace

import pytest

from ig_plugins.chat import PROMPTED, as_tools, native_syntax
from ig_plugins.engine import TreeModel
from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar import call_rule, check, compiler, json_schema_of, or_calls, rule, rules
from ig_plugins.grammar.schemas import json_grammar
from ig_plugins.guard import InferenceGuard
from ig_plugins.search import Policy
from tests.kit.tiny import tiny_llama
from tests.kit.tokenizer import byte_tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TOOLS = as_tools([{"name": "weather", "parameters": PERSON}, {"name": "remove", "parameters": {"properties": {}}}])


@pytest.fixture(scope="module")
def policy():
    tokenizer = byte_tokenizer(chat=True)
    return Policy(TreeModel.attach(tiny_llama(tokenizer)), tokenizer, frozenset({tokenizer.eos_token_id}))


def takes(policy, found, text):
    """Whether a grammar takes a text as a whole, byte by byte."""
    state = compiler(policy)(found)
    for token in policy.tokenizer.encode(text, add_special_tokens=False):
        if not state.allowed()[token // 8] >> token % 8 & 1:
            return False
        state = state.after([token])
    return state.complete


@pytest.mark.parametrize(
    ("kind", "value", "inside", "outside"),
    [
        ("choices", ["yes", "no", 'a "quoted" é'], ["yes", "no", 'a "quoted" é'], ["", "y", "yesno", "maybe"]),
        ("regex", "[a-c]{2}\\d?", ["ab", "cc7"], ["a", "ad", "ab77"]),
        ("grammar", 'start: "x" B*\nB: /b/', ["x", "xbb"], ["b", "xa"]),
        (
            "json_schema",
            PERSON,
            ['{"name": "Ann", "age": 3}'],
            ['{"name": "Ann"}', '{"name": "Ann", "age": 3, "x": 1}'],
        ),
        ("json_schema", json.dumps(PERSON), ['{"name": "", "age": -1}'], ['{"age": 3, "name": "Ann"}', " {}"]),
        ("json_schema", {}, ["3", '"x"', '{"a": [1, null]}'], ["{", "{a: 1}"]),
    ],
)
def test_a_wish_is_followed(policy, kind, value, inside, outside):
    check(kind, value)
    assert all(takes(policy, rule(kind, value), text) for text in inside)
    assert not any(takes(policy, rule(kind, value), text) for text in outside)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("regex", "a(", "regex cannot be followed: .*unclosed group"),
        ("regex", "(?=x)a", "look-around"),
        ("grammar", "start: nothing", 'grammar cannot be followed: .*unknown name: "nothing"'),
        ("grammar", " ", "grammar cannot be followed: "),
        ("choices", "yes", "choices are not a list of texts"),
        ("choices", ["a", ""], "hold no text"),
        ("choices", [1], "not a list of texts"),
        ("json_schema", "{", "json_schema is not JSON"),
        ("json_schema", [1], "json_schema is of type list"),
        ("json_schema", {"type": "strin"}, "json_schema cannot be followed: Invalid type: strin"),
        ("json_schema", {"type": "array", "uniqueItems": True}, "uniqueItems.*leave it out|uniqueItems.*lenient"),
        ("json_schema", {"$ref": "#/nowhere"}, "nowhere"),
    ],
)
def test_what_is_no_grammar_is_refused_before_anything_is_loaded(kind, value, said):
    with pytest.raises(ConfigurationError, match=f"(?s){said}"):
        InferenceGuard.from_pretrained("no-such-folder/no-such-model", **{kind: value})


def test_one_grammar_at_a_time():
    with pytest.raises(ConfigurationError, match="regex and choices are both given"):
        InferenceGuard.from_pretrained("no-such-folder/no-such-model", regex="a", choices=["a"])


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("ig_plugins.grammar.library.installed", lambda: False)
    with pytest.raises(ConfigurationError, match=r'pip install "inferenceguard\[grammar\]"'):
        check("regex", "a")


def test_what_no_mask_can_hold_to_is_ignored_where_the_schema_says_so(policy):
    lenient = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "x-guidance": {"lenient": True}}
    check("json_schema", lenient)
    assert takes(policy, rule("json_schema", lenient), "[1, 1]")


def test_objects_are_closed_where_that_takes_nothing_away():
    closed = json_grammar({**PERSON, "properties": {"properties": PERSON, "default": {"type": "string"}}})[
        "json_schema"
    ]
    assert closed["additionalProperties"] is False
    assert set(closed["properties"]) == {"properties", "default"}
    assert closed["properties"]["properties"]["additionalProperties"] is False
    for spoken in ({"additionalProperties": True}, {"patternProperties": {"^x": {}}}, {"anyOf": [PERSON, PERSON]}):
        assert json_grammar({**PERSON, **spoken})["json_schema"].get("additionalProperties") is not False
    shared = {"allOf": [PERSON, {"type": "object", "properties": {"city": {"type": "string"}}}]}
    assert json_grammar(shared)["json_schema"]["allOf"] == shared["allOf"]


def test_a_forced_call_goes_from_its_opening_to_its_end_mark(policy):
    native = native_syntax(policy.tokenizer)
    for syntax, gap in ((PROMPTED, ""), (native, "\n")):
        one = call_rule(policy.tokenizer, syntax, TOOLS[:1], opening=syntax.opening("weather"))
        assert takes(policy, one, f' {{"name": "A", "age": 1}}}}{gap}</tool_call>')
        for wrong in (" {}}</tool_call>", ' {"name": "A", "age": 1}}', ' {"name": "A", "age": 1}}</tool_call> More.'):
            assert not takes(policy, one, wrong)
        some = call_rule(policy.tokenizer, syntax, TOOLS, opening=syntax.opening(None))
        assert takes(policy, some, f'weather", "arguments": {{"name": "A", "age": 1}}}}{gap}</tool_call>')
        assert takes(policy, some, f'remove", "arguments": {{}}}}{gap}</tool_call>')
        assert not takes(policy, some, f'delete", "arguments": {{}}}}{gap}</tool_call>')


def test_a_mark_of_special_tokens_is_said_by_its_token(policy):
    ended = replace(PROMPTED, end="<|im_start|>.")
    state = compiler(policy)(call_rule(policy.tokenizer, ended, TOOLS[1:], opening=ended.opening("remove")))
    state = state.after(policy.tokenizer.encode(" {}}", add_special_tokens=False))
    mark = policy.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert state.allowed()[mark // 8] >> mark % 8 & 1
    state = state.after([mark])
    assert state.after(policy.tokenizer.encode(".", add_special_tokens=False)).complete


def test_where_a_call_is_free_it_may_take_the_answers_place(policy):
    either = or_calls(rule("json_schema", PERSON), policy.tokenizer, PROMPTED, TOOLS)
    assert takes(policy, either, '{"name": "A", "age": 1}')
    assert takes(policy, either, '<tool_call>{"name": "remove", "arguments": {}}</tool_call>')
    assert not takes(policy, either, '<tool_call>{"name": "weather", "arguments": {}}</tool_call>')


def test_a_tools_schema_that_no_mask_can_hold_to_still_gives_an_object(policy):
    odd = as_tools([{"name": "odd", "parameters": {"properties": {"a": {"not": {"type": "string"}}}}}])
    found = call_rule(policy.tokenizer, PROMPTED, odd, opening=PROMPTED.opening("odd"))
    assert takes(policy, found, ' {"a": 1}}</tool_call>')


def test_openais_wish_in_our_words():
    asked = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    assert json_schema_of(asked) == PERSON
    assert json_schema_of({"type": "json_object"}) == {"type": "object"}
    assert json_schema_of({"type": "text"}) is None
    for wrong in ({}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}):
        with pytest.raises(ConfigurationError, match="response_format has type"):
            json_schema_of(wrong)


@pytest.mark.parametrize("how", ["allOf", "$ref", "beside"])
def test_more_patterns_for_one_text_than_the_library_can_look_at_are_refused(how):
    """It asks whether any text matches all of them, twice as long for each: years for forty, and cannot be stopped."""
    parts = [{"type": "string", "pattern": f"^[ab]*a[ab]{{{size}}}$"} for size in range(5, 45)]
    names = [f"#/$defs/d{at + 1}" for at in range(len(parts))]
    last = {f"d{len(parts)}": {"type": "string"}}
    chained = {
        f"d{at}": {"allOf": [each, {"$ref": name}]} if how == "$ref" else {**each, "$ref": name}
        for at, (each, name) in enumerate(zip(parts, names, strict=True))
    }
    schema = {"allOf": parts} if how == "allOf" else {"$ref": "#/$defs/d0", "$defs": {**chained, **last}}
    with pytest.raises(ConfigurationError, match="40 patterns"):
        check("json_schema", schema)


def test_patterns_of_different_texts_may_be_many():
    fields = {f"k{size}": {"type": "string", "pattern": f"^a{{{size}}}$"} for size in range(40)}
    check("json_schema", {"type": "object", "properties": fields, "allOf": [{"type": "object"}]})


def test_what_is_too_much_for_the_library_is_refused_in_plain_words():
    deep = {"type": "string"}
    for _ in range(3000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConfigurationError, match="json_schema cannot be followed: it is nested too deep"):
        check("json_schema", deep)
    assert "backtrace" not in str(rules.wrong("choices", "panic: too many symbols\n<backtrace>\n  0: <unknown>"))
