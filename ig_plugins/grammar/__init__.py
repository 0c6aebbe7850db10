"""Grammars that answers are held to while they are sampled: a JSON schema, a regex, choices, a Lark grammar, a call."""

from ig_plugins.grammar.compiler import CompiledGrammar, Compiler, compiler
from ig_plugins.grammar.rules import KINDS, Rule, check, rule
from ig_plugins.grammar.wishes import json_schema_of

__all__ = ["KINDS", "CompiledGrammar", "Compiler", "Rule", "check", "compiler", "json_schema_of", "rule"]
