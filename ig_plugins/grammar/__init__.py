"""Grammars that answers are held to while they are sampled: a JSON schema, a regex, choices, a Lark grammar, a call."""

from ig_plugins.grammar.calls import call_rule, or_calls, started_call
from ig_plugins.grammar.closing import ClosingGrammar, closing
from ig_plugins.grammar.compiler import CompiledGrammar, Compiler, compiler
from ig_plugins.grammar.free_calls import Calls, FreeCalls
from ig_plugins.grammar.lark import as_lark
from ig_plugins.grammar.library import installed
from ig_plugins.grammar.rules import KINDS, Rule, as_schema, check, rule
from ig_plugins.grammar.wishes import json_schema_of

__all__ = [
    "KINDS",
    "Calls",
    "ClosingGrammar",
    "CompiledGrammar",
    "Compiler",
    "FreeCalls",
    "Rule",
    "as_lark",
    "as_schema",
    "call_rule",
    "check",
    "closing",
    "compiler",
    "installed",
    "json_schema_of",
    "or_calls",
    "rule",
    "started_call",
]
