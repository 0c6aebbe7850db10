"""A rule as one text in llguidance's dialect of Lark, the form in which servers that follow such grammars take it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ig_plugins.grammar.rules import Rule

REFERENCE = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])*/|@(\w+)')  # texts and regexes hold none


OURS = "%llguidance {}\n"
"""A line that other libraries refuse. xgrammar, which vLLM asks first by default, takes most of this dialect and means
something else by it; vLLM asks llguidance then."""


def as_lark(rule: Rule) -> str:
    """The whole rule; grammars that another refers to become rules of its text."""
    first, *others = json.loads(rule.grammars)
    text = _text(first, {each["name"]: each for each in others})
    return text if "%llguidance" in text else OURS + text


def _text(grammar: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    """A grammar's text, which begins at ``start``."""
    if "lark_grammar" not in grammar:
        return f"start: {_nested(grammar, others)}"
    if not others:
        return str(grammar["lark_grammar"])
    named: list[str] = []

    def rule_of(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        if found[1] not in named:
            named.append(found[1])
        return found[1]

    text = REFERENCE.sub(rule_of, grammar["lark_grammar"])
    return "\n".join([text, *(f"{name}: {_nested(others[name], _but(others, name))}" for name in named)])


def _nested(grammar: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    """A grammar inside another's text; the names in it are its own."""
    if "lark_grammar" in grammar:
        return f"%lark {{\n{_text(grammar, others)}\n}}"
    return f"%json {json.dumps(grammar['json_schema'], ensure_ascii=False)}"


def _but(others: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    return {key: value for key, value in others.items() if key != name}
