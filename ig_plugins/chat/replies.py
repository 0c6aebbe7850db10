"""Reading a finished answer: plain text, or tool calls that are whole, valid and meant to be executed.

A call that was cut off, or that is not exactly what its tool asks for, comes out as no call at all. Partial JSON is
never repaired: half a command is another command.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.schema import schema_problem
from ig_plugins.chat.syntax import PROMPTED, ToolSyntax
from ig_plugins.chat.tools import Tool, ToolChoice, as_tools, choose


@dataclass(frozen=True)
class ParsedReply:
    """What an answer says and what it wants to be done.

    Attributes:
        text: The words before the first call; the whole answer where there is none.
        tool_calls: Calls, each {"id", "name", "arguments"}, all valid; empty where one of them is not.
        malformed: The answer began a call and did not end it well. Nothing of it may be executed.
        raw: The part of the answer that was meant as calls, as written; for reports.
        problem: What is wrong with it, without quoting it; None where nothing is.
    """

    text: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    malformed: bool = False
    raw: str = ""
    problem: str | None = None


class _NotACallError(ValueError):
    """A region that is not a valid call; the message says why, without quoting it."""


def parse_reply(
    text: str,
    *,
    ids: Sequence[int] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    tools: Sequence[Tool] | None = None,
    tool_choice: ToolChoice = "auto",
    opening: str = "",
    syntax: ToolSyntax | None = None,
    prompt_ids: Sequence[int] = (),
) -> ParsedReply:
    """Read the answer of a request that offered tools.

    A tokenizer's ``response_template`` (transformers 5.13) is used where the chat template's own syntax is in use and
    the tokenizer has one; otherwise our strict parser reads JSON between the syntax's markers.

    Args:
        text: The answer as shown, decoded without special tokens, from the end of the prefill on.
        ids: Its tokens; used only where the marker of a call is a special token, which the text does not show.
        tokenizer: The policy's.
        tools: The tools offered.
        tool_choice: The choice given; a forced tool is the only one that may be called.
        opening: ``EncodedPrompt.opening``: what the answer was forced to start with.
        syntax: ``EncodedPrompt.syntax``; our own syntax by default.
        prompt_ids: ``EncodedPrompt.prompt_ids``, which a response template may want to see.
    """
    offered = as_tools(tools)
    choice = choose(tool_choice, offered)
    if choice == "none":
        return ParsedReply(text)
    syntax = syntax or PROMPTED
    full = opening + _written(text, ids, syntax, tokenizer)
    start = full.find(syntax.start)
    if start < 0:
        return ParsedReply(text)
    words = _words_before(opening + text, full[:start], syntax, tokenizer)
    raw = full[start:]
    try:
        calls = _calls(full, raw, syntax, tokenizer, offered, prompt_ids)
        allowed = [tool for tool in offered if choice in ("auto", "any", tool["function"]["name"])]
        return ParsedReply(words, tuple(_checked(call, allowed) for call in calls), raw=raw)
    except _NotACallError as error:
        return ParsedReply(words, malformed=True, raw=raw, problem=str(error))


def tool_region(text: str, *, opening: str = "", syntax: ToolSyntax | None = PROMPTED) -> int:
    """From where on a streamed answer must be held back, because a tool call has started or may be starting.

    White space before a possible call is held back with it, so that what was streamed is how ``ParsedReply.text``
    begins.

    Args:
        text: The answer so far, without ``opening``.
        opening: What the answer was forced to start with; if anything, all of it is a call.
        syntax: ``EncodedPrompt.syntax``; None where the model may not call, and nothing is held back.

    Returns:
        The number of leading characters that may be shown.
    """
    if syntax is None:
        return len(text)
    if opening:
        return 0
    found = text.find(syntax.marker)  # an empty marker, one that cannot be seen, holds back everything
    if found < 0:
        lengths = range(min(len(syntax.marker), len(text)), 0, -1)
        found = len(text) - next((n for n in lengths if text.endswith(syntax.marker[:n])), 0)
    return len(text[:found].rstrip())


def _written(text: str, ids: Sequence[int], syntax: ToolSyntax, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """The answer with the markers of calls, which the shown text lacks where they are special tokens."""
    if syntax.marker or tokenizer is None or not len(ids):
        return text
    shown, whole = (str(tokenizer.decode(list(ids), skip_special_tokens=skip)) for skip in (True, False))
    # A stop string cut the text, but not the tokens: what was cut off must not be executed.
    return whole if len(shown.strip()) <= len(text.strip()) else whole.partition(syntax.end)[0]


def _words_before(shown: str, before: str, syntax: ToolSyntax, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if syntax.marker and syntax.marker in shown:
        return shown[: shown.find(syntax.marker)].rstrip()
    for token in tokenizer.all_special_tokens if tokenizer else ():
        before = before.replace(str(token), "")
    return before.rstrip()


def _calls(
    full: str,
    raw: str,
    syntax: ToolSyntax,
    tokenizer: PreTrainedTokenizerBase | None,
    tools: Sequence[Tool],
    prompt_ids: Sequence[int],
) -> Iterable[dict[str, Any]]:
    if syntax.native and tokenizer is not None and getattr(tokenizer, "response_template", None) is not None:
        return _templated(full, tokenizer, tools, prompt_ids)
    if syntax.arguments is None:
        raise _NotACallError("this model's calls need its tokenizer's response template, and it has none")
    return _marked(raw, syntax, syntax.arguments)


def _marked(raw: str, syntax: ToolSyntax, key: str) -> list[dict[str, Any]]:
    """Calls as JSON objects between markers; words after the last one are not looked at."""
    calls, rest = [], raw
    while (start := rest.find(syntax.start)) >= 0:
        body = rest[start + len(syntax.start) :].lstrip()
        value, length = _json_object(body)
        rest = body[length:].lstrip()
        if not rest.startswith(syntax.end):
            raise _NotACallError("the call does not end with its end marker")
        rest = rest[len(syntax.end) :]
        if set(value) - {"id"} != {"name", key}:
            raise _NotACallError(f"the call's keys are not name and {key}")
        calls.append({"name": value["name"], "arguments": value[key]})
    return calls


def _json_object(text: str) -> tuple[dict[str, Any], int]:
    """Strict JSON: no NaN, no key twice (a judge and a tool might read different ones)."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) < len(items):
            raise _NotACallError("a key of the call is given twice")
        return dict(items)

    def constant(name: str) -> Any:
        raise _NotACallError(f"{name} is not JSON")

    try:
        value, end = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant).raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        raise _NotACallError("the call is not JSON, or was cut off") from None
    if not isinstance(value, dict):
        raise _NotACallError("the call is not a JSON object")
    return value, end


def _templated(
    full: str, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool], prompt_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Calls as the tokenizer's response template reads them, if each of them was closed by the model.

    ``tokenizer.parse_response`` also closes a call that the end of the text cuts off, and some content parsers then
    return what arguments there were. So its streaming twin is fed, and only regions that close while feeding count;
    the added line break settles an end marker that is a pattern and stands at the very end.
    """
    template = tokenizer.response_template
    ends_itself = "tool_calls" in template["fields"] and not {"close", "close_pattern"} & set(
        template["fields"]["tool_calls"]
    )
    try:
        parser = tokenizer.get_response_parser(prefix=list(prompt_ids) or "", tools=list(tools))
        closed = parser.feed(full + "\n")
        _, late = parser.finalize()
    except (ValueError, TypeError, KeyError):
        raise _NotACallError("the response template cannot read the call, or it was cut off") from None
    if ends_itself and template["fields"]["tool_calls"].get("content") == "json":
        closed, late = closed + late, []  # JSON that ends with the answer: a cut-off one has not parsed
    if any(event.get("field") == "tool_calls" for event in late):
        raise _NotACallError("the call does not end with its end marker")
    values = [e["value"] for e in closed if e["type"] == "region_close" and e["field"] == "tool_calls"]
    if not values:
        raise _NotACallError("the response template finds no call")
    return [_function(value) for group in values for value in (group if isinstance(group, list) else [group])]


def _function(value: Any) -> dict[str, Any]:
    inner = value.get("function", value) if isinstance(value, dict) else {}
    if not isinstance(inner, dict):
        raise _NotACallError("the call has no function")
    arguments = inner.get("arguments", inner.get("parameters"))
    return {"name": inner.get("name"), "arguments": arguments}


def _checked(call: dict[str, Any], tools: Sequence[Tool]) -> dict[str, Any]:
    tool = next((tool["function"] for tool in tools if tool["function"]["name"] == call["name"]), None)
    if tool is None:
        raise _NotACallError("the call names no tool that may be used")
    if not isinstance(call["arguments"], dict):
        raise _NotACallError("the call's arguments are not a JSON object")
    if problem := schema_problem(call["arguments"], tool["parameters"]):
        raise _NotACallError(f"the arguments do not fit the tool's schema: {problem}")
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "name": call["name"], "arguments": call["arguments"]}
