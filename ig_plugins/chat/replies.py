"""Reading a finished answer: plain text, or tool calls that are whole, valid and meant to be executed.

A call that was cut off, or that is not exactly what its tool asks for, comes out as no call at all. Partial JSON is
never repaired: half a command is another command.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.rendering import call_words
from ig_plugins.chat.schema import schema_problem
from ig_plugins.chat.special import hides
from ig_plugins.chat.spelling import Spelled, spelled
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

    def handed_out(self) -> tuple[str, ...]:
        """Every text that a caller gets of it, each to be judged: the words, each call, and all of these as one."""
        parts = [*([self.text] if self.text else []), *map(call_words, self.tool_calls)]
        return tuple(parts if len(parts) < 2 else [*parts, "\n".join(parts)])


_NUL = "\0"


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
        ids: All its tokens, a stop token at the end included: special tokens may be part of a call.
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
    allowed = [tool for tool in offered if choice in ("auto", "any", tool["function"]["name"])]
    seen = text.find(syntax.marker) if syntax.marker else -1
    full, written, start = Spelled(text), opening + text, -1
    calls: list[dict[str, Any]] | None = None
    problem: str | None = None
    try:
        full = _spelled(text, ids, syntax, tokenizer, opening)
        written = opening + full.text
        if syntax.templated and tokenizer is not None:
            events = _events(written, syntax, tokenizer, offered, prompt_ids)
            start = _opened(events, written)
            calls = _templated(events, tokenizer) if start >= 0 else None
        else:
            start = written.find(syntax.start)
            calls = _marked(written[start:], syntax) if start >= 0 else None
        if calls is None and (opening or seen >= 0):
            raise _NotACallError("the forced call did not come about" if opening else "the marker begins no call")
        calls = [_checked(call, allowed) for call in calls] if calls is not None else None
    except _NotACallError as error:
        calls, problem = [], str(error)
    if calls is None:
        return ParsedReply(text)
    # Where the marker can be seen, a stream has shown the text up to it.
    end = seen if seen >= 0 else full.shown(max(start - len(opening), 0))
    words = "" if opening else text[:end].rstrip()
    raw = written[start:] if start >= 0 else text[end:]
    return ParsedReply(words, tuple(calls), malformed=problem is not None, raw=raw, problem=problem)


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


def _spelled(
    text: str, ids: Sequence[int], syntax: ToolSyntax, tokenizer: PreTrainedTokenizerBase | None, opening: str
) -> Spelled:
    """The answer with its special tokens, where the syntax may have some: the shown text lacks them."""
    if tokenizer is None or not len(ids):
        return Spelled(text)
    if not syntax.templated and not hides(tokenizer, syntax.start) and not hides(tokenizer, syntax.end):
        return Spelled(text)
    full = spelled(text, ids, tokenizer, opening=opening)
    if full is None:
        raise _NotACallError("the tokens do not spell the text")
    return full


def _marked(raw: str, syntax: ToolSyntax) -> list[dict[str, Any]]:
    """Calls as JSON objects between markers; words after the last one are not looked at."""
    calls, rest = [], raw
    while (start := rest.find(syntax.start)) >= 0:
        body = rest[start + len(syntax.start) :].lstrip()
        value, length = _json_object(body)
        rest = body[length:].lstrip()
        if not rest.startswith(syntax.end):
            raise _NotACallError("the call does not end with its end marker")
        rest = rest[len(syntax.end) :]
        if set(value) - {"id"} != {"name", syntax.arguments}:
            raise _NotACallError(f"the call's keys are not name and {syntax.arguments}")
        calls.append({"name": value["name"], "arguments": value[syntax.arguments]})
    return calls


def _json_object(text: str) -> tuple[dict[str, Any], int]:
    value, end = _json_value(text)
    if not isinstance(value, dict):
        raise _NotACallError("the call is not a JSON object")
    return value, end


def _json_value(text: str) -> tuple[Any, int]:
    """Strict JSON and where it ends: no NaN, no key twice (a judge and a tool might read different ones)."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) < len(items):
            raise _NotACallError("a key of the call is given twice")
        return dict(items)

    def constant(name: str) -> Any:
        raise _NotACallError(f"{name} is not JSON")

    try:
        return json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant).raw_decode(text)
    except _NotACallError:
        raise
    except (ValueError, RecursionError):  # numbers of thousands of digits are a plain ValueError
        raise _NotACallError("the call is not JSON, or was cut off") from None


def _events(
    written: str,
    syntax: ToolSyntax,
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool],
    prompt_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """What the tokenizer's response template reads, if each call in it was closed by the model.

    ``tokenizer.parse_response`` also closes a call that the end of the text cuts off, and some content parsers then
    return what arguments there were. So a NUL is put after the text: where it lands in a call, that call was cut off.
    A call without an end marker, which its JSON alone ends, needs no NUL: cut-off JSON does not parse.
    """
    field = tokenizer.response_template["fields"]["tool_calls"]
    ends_itself = field.get("content") == "json" and not {"close", "close_pattern"} & set(field)
    if _NUL in written:
        raise _NotACallError("the answer contains a NUL")
    try:
        parser = tokenizer.get_response_parser(prefix=list(prompt_ids) or "", tools=list(tools))
        return list(parser.feed(written if ends_itself else written + _NUL) + parser.finalize()[1])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _NotACallError("the response template cannot read the call, or it was cut off") from None


def _opened(events: Sequence[dict[str, Any]], written: str) -> int:
    """Up to where the answer surely holds no call; -1 where it holds none at all.

    The chunks before the first call are pieces of the answer, in order; between them are marks that events leave out.
    """
    at = 0
    for event in events:
        if _is(event, "region_open"):
            return at
        if event["type"] == "region_chunk":
            chunk = event["text"].removesuffix(_NUL)
            found = written.find(chunk, at)  # a first chunk may begin in the prompt, and is not found then
            at = found + len(chunk) if found >= 0 else at
    return -1


def _templated(events: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """The calls among the events of a response template."""
    field = tokenizer.response_template["fields"]["tool_calls"]
    if any(_is(event, "region_chunk") and _NUL in event["text"] for event in events):
        raise _NotACallError("the call does not end with its end marker")
    if field.get("content") == "json" and not field.get("content_args"):
        for body in _bodies(events):
            _json_value(body.lstrip())
    values = [event["value"] for event in events if _is(event, "region_close")]
    return [_function(value) for group in values for value in (group if isinstance(group, list) else [group])]


def _bodies(events: Sequence[dict[str, Any]]) -> list[str]:
    """The text of each call."""
    bodies: list[str] = []
    for event in events:
        if _is(event, "region_open"):
            bodies.append("")
        elif _is(event, "region_chunk"):
            bodies[-1] += event["text"]
    return bodies


def _is(event: dict[str, Any], kind: str) -> bool:
    return bool(event["type"] == kind and event["field"] == "tool_calls")


def _function(value: Any) -> dict[str, Any]:
    inner = value.get("function", value) if isinstance(value, dict) else {}
    keys = set(inner) - {"id", "type"} if isinstance(inner, dict) else set()
    if inner is not value and {"name", "arguments", "parameters"} & set(value):
        raise _NotACallError("the call names a function twice")
    if keys not in ({"name", "arguments"}, {"name", "parameters"}):
        raise _NotACallError("the call's keys are not name and arguments")
    return {"name": inner["name"], "arguments": inner.get("arguments", inner.get("parameters"))}


def _checked(call: dict[str, Any], tools: Sequence[Tool]) -> dict[str, Any]:
    tool = next((tool["function"] for tool in tools if tool["function"]["name"] == call["name"]), None)
    if tool is None:
        raise _NotACallError("the call names no tool that may be used")
    if not isinstance(call["arguments"], dict):
        raise _NotACallError("the call's arguments are not a JSON object")
    if problem := schema_problem(call["arguments"], tool["parameters"]):
        raise _NotACallError(f"the arguments do not fit the tool's schema: {problem}")
    try:
        json.dumps(call["arguments"], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise _NotACallError("the arguments hold a number or a character that JSON cannot write") from None
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "name": call["name"], "arguments": call["arguments"]}
