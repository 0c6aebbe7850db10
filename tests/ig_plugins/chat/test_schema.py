"""Arguments are held against their schema by all of JSON Schema, without fetching anything and without end."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from ig_plugins.chat import as_tools, parse_reply, schema_fault, schema_problem
from ig_plugins.errors import PromptError

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "s": {"type": ["string", "null"]},
        "kind": {"enum": ["a", "b", 1]},
        "list": {"type": "array", "items": {"type": "number"}},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "one": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
        "part": {"$ref": "#/$defs/Part"},
        "fixed": {"const": 0},
        "maybe": {"type": "string", "nullable": True},
    },
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"Part": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"n": 1}, None),
        ({"n": 1.0}, None),
        ({"n": 1.5}, r"\$.n is number, expected integer"),
        ({"n": True}, r"\$.n is boolean"),
        ({}, "lacks 'n'"),
        ([], r"\$ is array"),
        ({"n": 1, "s": None}, None),
        ({"n": 1, "s": 2}, "expected string or null"),
        ({"n": 1, "kind": "a"}, None),
        ({"n": 1, "kind": True}, "not one of the 3"),
        ({"n": 1, "list": [1, 2.5]}, None),
        ({"n": 1, "list": [1, "2"]}, r"\$.list\[1\] is string"),
        ({"n": 1, "either": 2}, None),
        ({"n": 1, "either": []}, "fits 0 of 2 in anyOf"),
        ({"n": 1, "one": 1}, "fits 2 of 2 in oneOf"),
        ({"n": 1, "one": 1.5}, None),
        ({"n": 1, "part": {"x": False}}, None),
        ({"n": 1, "part": {}}, r"\$.part lacks 'x'"),
        ({"n": 1, "fixed": False}, "not the one allowed"),
        ({"n": 1, "maybe": None}, None),
        ({"n": 1, "other": 1}, r"\$.\* is not allowed"),
    ],
)
def test_schema(value, problem):
    found = schema_problem(value, SCHEMA)
    if problem is None:
        assert found is None
    else:
        with pytest.raises(AssertionError, match=problem):
            raise AssertionError(found)


KEYWORDS = [
    ({"maximum": 3}, 4, r"\$\.v breaks maximum 3"),
    ({"maxLength": 2}, "abc", r"\$\.v breaks maxLength 2"),
    ({"pattern": "^a"}, "b", r"\$\.v breaks pattern \^a"),
    ({"maxItems": 1}, [1, 2], r"\$\.v breaks maxItems 1"),
    ({"uniqueItems": True}, [1, 1], r"\$\.v breaks uniqueItems"),
    ({"format": "date"}, "yesterday", r"\$\.v breaks format date"),
    ({"format": "email"}, "nobody", r"\$\.v breaks format email"),
    ({"format": "uuid"}, "1-2", r"\$\.v breaks format uuid"),
    ({"format": "date-time"}, "2026-13-01T00:00:00Z", r"\$\.v breaks format date-time"),
    ({"format": "uri"}, "not a uri", r"\$\.v breaks format uri"),
    ({"format": "ipv4"}, "1.2.3.256", r"\$\.v breaks format ipv4"),
    ({"minProperties": 2}, {"a": 1}, r"\$\.v breaks minProperties 2"),
    ({"patternProperties": {"^x": {"type": "string"}}}, {"xyz": 3}, r"\$\.v\.\* is integer, expected string"),
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, r"\$\.v lacks 'b'"),
    ({"not": {"type": "string"}}, "x", r"\$\.v breaks not"),
    ({"prefixItems": [{"type": "string"}]}, [1], r"\$\.v\[0\] is integer, expected string"),
    ({"propertyNames": {"maxLength": 2}}, {"abc": 1}, r"\$\.v breaks (maxLength|propertyNames)"),
    ({"if": {"type": "string"}, "then": {"minLength": 4}}, "abc", r"\$\.v breaks minLength 4"),
    ({"exclusiveMinimum": 0}, 0, r"\$\.v breaks exclusiveMinimum 0"),
    ({"multipleOf": 2}, 3, r"\$\.v breaks multipleOf 2"),
    ({"contains": {"type": "string"}}, [1], r"\$\.v breaks contains"),
    ({"$ref": "#/$defs/P"}, {}, r"\$\.v lacks 'x'"),
    ({"anyOf": [{"$ref": "#/$defs/P"}, {"type": "null"}]}, {"x": 1}, r"\$\.v\.x is integer, expected boolean"),
]


@pytest.mark.parametrize(("part", "value", "problem"), KEYWORDS, ids=[next(iter(k[0])) for k in KEYWORDS])
def test_every_keyword_counts_in_a_call(part, value, problem):
    defs = {"P": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}}
    schema = {"type": "object", "properties": {"v": part}, "$defs": defs}
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(schema_problem({"v": value}, schema))
    call = json.dumps({"name": "f", "arguments": {"v": value}})
    reply = parse_reply(f"<tool_call>{call}</tool_call>", tools=[{"name": "f", "parameters": schema}])
    assert reply.tool_calls == ()
    assert reply.problem


def test_nothing_of_the_answer_is_quoted():
    schema = {"properties": {"a": {"enum": ["x"]}, "b": {"pattern": "^q"}, "c": {"const": 1}}, "minProperties": 9}
    schema["propertyNames"] = {"maxLength": 9}
    for value in ({"a": "SECRET"}, {"b": "SECRET"}, {"c": "SECRET"}, {"SECRET": 1}, {"SECRET" * 3: 1}, "SECRET"):
        for more in ({}, {"additionalProperties": False}, {"unevaluatedProperties": {"type": "array"}}):
            assert "SECRET" not in (schema_problem(value, {**schema, **more}) or "")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"items": {"type": "strng"}}, r"\$.items.type"),
        ({"properties": {"a": {"pattern": "("}}}, r"\$.properties.a.pattern"),
        ({"required": True}, r"\$.required"),
        ({"$ref": "#/nope"}, "nope"),
        ({"$ref": "http://127.0.0.1:PORT/schema.json"}, "cannot fetch"),
        ({"$ref": "file:///etc/passwd"}, "cannot fetch"),
        ({"$schema": "http://127.0.0.1:PORT/meta"}, "meta-schema"),
        ({"description": "x" * 2_000_000}, "characters"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused_and_nothing_is_fetched(schema, says):
    with socket.create_server(("127.0.0.1", 0)) as server:
        schema = json.loads(json.dumps(schema).replace("PORT", str(server.getsockname()[1])))
        assert "schema cannot be checked" in schema_problem({}, schema)
        with pytest.raises(PromptError, match=f"tool 'f'.*{says}"):
            as_tools([{"name": "f", "parameters": schema}])
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()  # nobody has called


def test_older_and_openapi_schemas_are_understood():
    tuples = {"type": "array", "items": [{"type": "string"}], "additionalItems": False}  # draft 7's form
    assert schema_fault(tuples) is None
    assert schema_problem(["a"], tuples) is None
    assert schema_problem(["a", 1], tuples)
    assert schema_problem(None, {"type": "string", "nullable": True}) is None
    assert schema_problem({"nullable": None}, {"properties": {"nullable": {"type": "null"}}}) is None
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}
    assert schema_problem(3, old)


def _doubling(kind):
    chain = {f"a{i}": {kind: [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(60)}
    return {"$ref": "#/$defs/a0", "$defs": {**chain, "a60": {"type": "string"}}}


def _nested(depth, leaf=1):
    return {"a": _nested(depth - 1, leaf)} if depth else leaf


HOSTILE = [
    (_doubling("allOf"), 1),
    (_doubling("anyOf"), 1),
    (_doubling("oneOf"), "s"),
    ({"$ref": "#"}, 1),
    ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, 1),
    (
        {"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, "b": {"type": "integer"}}},
        _nested(40, {"b": "x"}),
    ),
    ({"items": {"$ref": "#"}, "type": "object"}, json.loads("[" * 500 + "]" * 500)),
    ({"pattern": "^(a+)+$"}, "a" * 5000 + "!"),
    ({"pattern": r"^(a|aa)+\1?(?=x)$"}, "a" * 40 + "!"),
    ({"type": "integer"}, float("inf")),
    ({"type": "string"}, "\ud800"),
]


@pytest.mark.parametrize(("schema", "value"), HOSTILE)
def test_hostile_schemas_and_values_are_refused_soon(schema, value):
    started = time.monotonic()
    assert schema_problem(value, schema)
    assert time.monotonic() - started < 10  # without a bound these take hours


def test_a_long_answer_of_an_ordinary_schema_is_no_problem():
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    chain = None
    for _ in range(20):
        chain = {"next": chain}
    assert schema_problem(chain, node) is None
    rows = {"type": "array", "items": {"type": "object", "properties": {k: {"type": "integer"} for k in "abc"}}}
    assert schema_problem([{"a": 1, "b": 2, "c": 3}] * 1000, rows) is None


# ---- JSON Schema's own tests ----

SUITE = Path(os.environ.get("JSON_SCHEMA_TEST_SUITE", ""))  # a checkout of json-schema-org/JSON-Schema-Test-Suite
FILES = {
    "draft7": """
        additionalItems additionalProperties allOf anyOf boolean_schema const contains default definitions dependencies
        enum exclusiveMaximum exclusiveMinimum if-then-else infinite-loop-detection items maxItems maxLength
        maxProperties maximum minItems minLength minProperties minimum multipleOf not oneOf pattern patternProperties
        properties propertyNames ref required type uniqueItems
        optional/bignum optional/content optional/ecmascript-regex optional/float-overflow optional/id
        optional/non-bmp-regex optional/unknownKeyword
        optional/format/date optional/format/date-time optional/format/email optional/format/hostname
        optional/format/idn-email optional/format/idn-hostname optional/format/ipv4 optional/format/ipv6
        optional/format/iri optional/format/iri-reference optional/format/json-pointer optional/format/regex
        optional/format/relative-json-pointer optional/format/time optional/format/unknown
        optional/format/uri optional/format/uri-reference optional/format/uri-template
    """,
    "draft2020-12": """
        additionalProperties allOf anchor anyOf boolean_schema const contains content default defs dependentRequired
        dependentSchemas dynamicRef enum exclusiveMaximum exclusiveMinimum if-then-else infinite-loop-detection items
        maxContains maxItems maxLength maxProperties maximum minContains minItems minLength minProperties minimum
        multipleOf not oneOf pattern patternProperties prefixItems properties propertyNames ref required type
        unevaluatedItems unevaluatedProperties uniqueItems
        optional/anchor optional/bignum optional/dependencies-compatibility optional/dynamicRef
        optional/ecmascript-regex optional/float-overflow optional/id optional/no-schema optional/non-bmp-regex
        optional/refOfUnknownKeyword optional/unknownKeyword
        optional/format/date optional/format/date-time optional/format/duration optional/format/email
        optional/format/hostname optional/format/idn-email optional/format/idn-hostname optional/format/ipv4
        optional/format/ipv6 optional/format/iri optional/format/iri-reference optional/format/json-pointer
        optional/format/regex optional/format/relative-json-pointer optional/format/time optional/format/unknown
        optional/format/uri optional/format/uri-reference optional/format/uri-template optional/format/uuid
    """,
}
SCHEMAS = {"draft7": "http://json-schema.org/draft-07/schema#", "draft2020-12": None}
CASES = [(draft, name) for draft, names in FILES.items() for name in names.split()]


@pytest.mark.skipif(
    not (SUITE / "tests" / "draft7").is_dir(), reason="JSON_SCHEMA_TEST_SUITE names no checkout of the suite"
)
@pytest.mark.parametrize(("draft", "name"), CASES)
def test_the_official_suite(draft, name):
    wrong = []
    for case in json.loads((SUITE / "tests" / draft / f"{name}.json").read_text()):
        schema = case["schema"]
        if SCHEMAS[draft] and isinstance(schema, dict):
            schema = {"$schema": SCHEMAS[draft], **schema}
        fault = schema_fault(schema)
        if fault and "cannot fetch http://localhost:1234/" in fault:
            continue  # what the suite expects to be fetched from its own server is refused, as promised
        for test in case["tests"]:
            if (schema_problem(test["data"], schema) is None) is not test["valid"]:
                wrong.append((case["description"], test["description"], schema_problem(test["data"], schema)))
    assert wrong == []
