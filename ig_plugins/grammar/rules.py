"""From what a caller says to a rule of llguidance: a JSON schema, a regex, choices, or a Lark grammar."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar.library import llguidance
from ig_plugins.grammar.schemas import json_grammar, too_many_patterns

KINDS = ("json_schema", "regex", "choices", "grammar")
"""The options of a call that hold an answer to something; one of them at a time."""


@dataclass(frozen=True)
class Rule:
    """What an answer must be.

    Attributes:
        kind: One of ``KINDS``, or ``call``: for messages.
        grammars: JSON of llguidance's list of grammars, of which the first is the answer's.
    """

    kind: str
    grammars: str


def rule(kind: str, value: Any) -> Rule:
    """A caller's wish as a rule.

    Args:
        kind: One of ``KINDS``.
        value: A JSON schema as a mapping or as JSON text; a regular expression of Rust's ``regex``; a list of texts; a
            grammar in llguidance's dialect of Lark.

    Raises:
        ConfigurationError: It has not this form, or the library is not installed.
    """
    if kind == "json_schema":
        try:
            grammar = json_grammar(as_schema(value))
        except RecursionError:
            raise wrong(kind, "it is nested too deep") from None
    elif kind == "regex":
        grammar = json.loads(llguidance().LLMatcher.grammar_from_regex(value))["grammars"][0]
    elif kind == "choices":
        texts = " | ".join(json.dumps(each, ensure_ascii=False) for each in _texts(value))
        grammar = {"lark_grammar": f"start: {texts}"}
    else:
        grammar = {"lark_grammar": value}
    return Rule(kind, json.dumps([{**grammar, "name": "answer"}]))


def check(kind: str, value: Any) -> None:
    """Whether there is such a grammar, whatever the tokenizer; no model is looked at.

    Raises:
        ConfigurationError: It says what is wrong and where.
    """
    found = rule(kind, value)
    if problem := problem_of(found.grammars):
        raise wrong(kind, problem)


def wrong(kind: str, problem: str) -> ConfigurationError:
    """The error of a grammar that the library does not take, in its words."""
    hint = ""
    if "Unimplemented keys" in problem or "Unknown format" in problem or "oneOf" in problem:
        hint = (
            '; no mask can hold tokens to that. Leave it out, or set "x-guidance": {"lenient": true} in the schema '
            "to have it ignored while sampling"
        )
    told = problem.strip().partition("\n<backtrace>")[0]
    return ConfigurationError(f"{kind} cannot be followed: {told}{hint}")


def as_schema(value: Any) -> dict[str, Any]:
    """A JSON schema as a dict.

    Raises:
        ConfigurationError: It is neither a mapping nor the JSON text of one.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"json_schema is not JSON: {error}; give a schema such as {{...}}") from None
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"json_schema is of type {type(value).__name__}; give a mapping, or its JSON text")
    return dict(value)


def _texts(value: Any) -> Sequence[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError("choices are not a list of texts; give one such as ['yes', 'no']")
    if not value or not all(value):
        raise ConfigurationError("choices hold no text, or an empty one; give one such as ['yes', 'no']")
    return value


@lru_cache(maxsize=256)
def problem_of(grammars: str) -> str:
    """What is wrong with a list of grammars, whatever the tokenizer, in the library's words; nothing if it is sound."""
    library, parts = llguidance().LLMatcher, json.loads(grammars)
    for part in parts:
        if problem := too_many_patterns(part.get("json_schema") or {}):
            return problem
    failed, words = library.validate_grammar_with_warnings(json.dumps({"grammars": parts}))
    return str(words[0]) if failed else ""
