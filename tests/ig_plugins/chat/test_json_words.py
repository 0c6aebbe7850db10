"""JSON in an answer, as its reader gets it."""

import pytest

from ig_plugins.chat.json_words import json_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": "b"}', ()),
        (r'{"a": "\t"}', ('{"a": "\t"}',)),
        (r'{"a": "say \"b\""} and ["\n"]', ('{"a": "say "b""}\n["\n"]',)),
        (r'Look: {"a": {"b\t": [1, null]}}.', ('{"a": {"b\t": [1, null]}}',)),
        (r'{"a": "\u0062"}', ('{"a": "b"}', '{"a": "b"}')),
        (r'{"a": "\ud83d\ude42 \ud83d"}', ('{"a": "🙂 \ufffd"}', '{"a": "🙂 \ufffd"}')),
        (r'{"a": "\u0062', ('{"a": "b',)),
        (r"{'a': '\x62'}", ("{'a': 'b'}",)),
        (r'["\U00000062\U0010ffff\U00110000"]', ('["b\U0010ffff\\U00110000"]',)),
        ('["say \\\n  b", "c\\\\\n"]', ('["say b", "c\\\\\n"]',)),
        (r"\frac{a}{\beta} and [\nabla]", ()),
        ('{"a": "b"} \\', ()),
        ("[" * 3000 + "\\", ()),
    ],
)
def test_json_words(text, words):
    assert json_words(text) == words
