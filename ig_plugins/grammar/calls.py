"""The grammar of a tool call, in whatever form the model writes it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat import ToolSyntax, special_tokens
from ig_plugins.grammar.rules import Rule, problem_of
from ig_plugins.grammar.schemas import json_grammar

GAP = "/[ \\n]?/"  # templates put a blank or a line's end where our own form puts nothing


def call_rule(
    tokenizer: PreTrainedTokenizerBase, syntax: ToolSyntax, tools: Sequence[Mapping[str, Any]], *, opening: str
) -> Rule | None:
    """One call, from where a forced answer goes on to the call's end mark.

    Args:
        tokenizer: The policy's, whose special tokens an end mark may be made of.
        syntax: How its calls are written.
        tools: Those that may be called, as `chat.as_tools` returns them.
        opening: What the answer was forced to start with: up to the name, or up to the arguments of the only tool.

    Returns:
        None where the form is not JSON between two marks, which only a response template reads.
    """
    end = _end(tokenizer, syntax)
    if end is None or not opening.startswith(syntax.before_name):
        return None
    named = opening != syntax.before_name
    grammars: list[dict[str, Any]] = []
    calls = []
    for at, tool in enumerate(tools):
        function = tool["function"]
        grammars.append({**_arguments(function["parameters"]), "name": f"arguments{at}"})
        head = [] if named else [json.dumps(f"{function['name']}{syntax.after_name.rstrip()}", ensure_ascii=False)]
        calls.append(" ".join([*head, GAP, f"@arguments{at}", GAP, '"}"', GAP, *end]))
    return Rule("call", json.dumps([{"name": "answer", "lark_grammar": f"start: {' | '.join(calls)}"}, *grammars]))


@dataclass(frozen=True)
class StartedCall:
    """A call with its start mark, for where an answer is free to begin one.

    Attributes:
        mark: What it begins with, as text; empty where that is a special token.
        token: The special token that it begins with; None where that is text.
        opening: The start mark and what leads to the name, as symbols.
        call: From the name on.
    """

    mark: bytes
    token: int | None
    opening: tuple[str, ...]
    call: Rule

    def behind(self, lead: str) -> Rule:
        """The whole call as a rule, behind what its first token says before the mark."""
        one, *parts = json.loads(self.call.grammars)
        before = " ".join([*([json.dumps(lead, ensure_ascii=False)] if lead else []), *self.opening])
        first = {"name": "answer", "lark_grammar": f"start: {before} @call"}
        return Rule("call", json.dumps([first, {**one, "name": "call"}, *parts]))


def started_call(
    tokenizer: PreTrainedTokenizerBase, syntax: ToolSyntax, tools: Sequence[Mapping[str, Any]]
) -> StartedCall | None:
    """A call from its start mark on; None where calls have no grammar, or no mark that begins them."""
    call = call_rule(tokenizer, syntax, tools, opening=syntax.before_name)
    at = syntax.before_name.find(syntax.start) if syntax.start else -1
    if call is None or at < 0:
        return None
    opening = tuple(_spelled(tokenizer, syntax.before_name[at:]))
    special = special_tokens(tokenizer)
    first = next((token for token in sorted(special, key=len, reverse=True) if syntax.start.startswith(token)), None)
    if first is not None:
        return StartedCall(b"", tokenizer.convert_tokens_to_ids(first), opening, call)
    return (
        None
        if any(token in syntax.start for token in special)
        else StartedCall(syntax.start.encode(), None, opening, call)
    )


def or_calls(
    rule: Rule, tokenizer: PreTrainedTokenizerBase, syntax: ToolSyntax, tools: Sequence[Mapping[str, Any]]
) -> Rule:
    """What a rule allows, or one call of a tool from its first character; the model may choose.

    Where calls have no grammar, the rule alone.
    """
    call = call_rule(tokenizer, syntax, tools, opening=syntax.before_name)
    if call is None or not syntax.before_name:
        return rule
    answer, *others = json.loads(rule.grammars)
    one, *parts = json.loads(call.grammars)
    before = " ".join(_spelled(tokenizer, syntax.before_name.lstrip()))
    first = {"name": "either", "lark_grammar": f"start: @answer | {before} @call"}
    return Rule(rule.kind, json.dumps([first, answer, {**one, "name": "call"}, *others, *parts]))


def _arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What no mask can hold tokens to is left to the check of the finished call; so is a schema that is none."""
    schema = {"type": "object", **parameters, "x-guidance": {"lenient": True}}
    found = json_grammar(schema)
    return json_grammar({"type": "object"}) if problem_of(json.dumps([found])) else found


def _end(tokenizer: PreTrainedTokenizerBase, syntax: ToolSyntax) -> list[str] | None:
    """How a call ends behind its last brace, as symbols; None where that is not known."""
    if not syntax.templated:
        return _spelled(tokenizer, syntax.end) if syntax.end else None
    field = tokenizer.response_template["fields"]["tool_calls"]
    plain = field.get("content") == "json" and not field.get("content_args") and '"' in syntax.after_name
    return _spelled(tokenizer, field["close"]) if plain and isinstance(field.get("close"), str) else None


def _spelled(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """A mark as symbols: special tokens by their ids, as no text may spell them, and the rest as it is."""
    special = sorted(special_tokens(tokenizer), key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
    return [
        f"<[{tokenizer.convert_tokens_to_ids(piece)}]>" if piece in special else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    ]
