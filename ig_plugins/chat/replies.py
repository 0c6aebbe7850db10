"""Reading a finished answer: words, and tool calls that are whole, valid and meant to be executed.

A call that was cut off, or that is not exactly what its tool asks for, is never executable: partial JSON is never
repaired, as half a command is another command. But nothing is lost: what was written stands in the reply as it is.
"""

import json
import re
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.json_words import json_words
from ig_plugins.chat.rendering import call_words
from ig_plugins.chat.schema import schema_problem
from ig_plugins.chat.special import hides
from ig_plugins.chat.spelling import Spelled, spelled
from ig_plugins.chat.strict_json import NotACallError, json_object
from ig_plugins.chat.syntax import PROMPTED, ToolSyntax
from ig_plugins.chat.templated import Reading, read_by_template, with_end
from ig_plugins.chat.tools import Tool, ToolChoice, as_tools, choose


@dataclass(frozen=True)
class InvalidCall:
    """A part of an answer that was meant as a call and is none; nothing of it may be executed.

    Attributes:
        id: A name of its own, as calls have one.
        name: The tool that it speaks of; None where that is not plain, or no tool of that name was offered.
        text: All that was written, from the call's start to the next one's or to the answer's end.
        problem: What is wrong with it, without quoting it.
    """

    id: str
    name: str | None
    text: str
    problem: str


@dataclass(frozen=True)
class ParsedReply:
    """What an answer says and what it wants to be done; together its parts hold all of the answer but white space.

    Attributes:
        text: The words before, between and after the calls; the whole answer where there is none.
        tool_calls: Calls, each {"id", "name", "arguments"}, all valid; empty where one of them is not.
        invalid: What was meant as calls, where one of them is not valid.
        raw: The part of the answer that was meant as calls, as written; for reports.
        problem: What is wrong with it, without quoting it; None where nothing is.
    """

    text: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    invalid: tuple[InvalidCall, ...] = ()
    raw: str = ""
    problem: str | None = None

    @property
    def malformed(self) -> bool:
        """The answer began a call and did not end it well."""
        return bool(self.invalid)

    def handed_out(self) -> tuple[str, ...]:
        """Every text that a caller gets of it, each to be judged: words, calls valid or not, all as one, and JSON."""
        written = [call.text for call in self.invalid]
        parts = [part for part in (self.text, *map(call_words, self.tool_calls), *written) if part]
        shown = content(self.text, calls=self.tool_calls, invalid=written)
        joined = (text for text in (shown, "\n".join(parts)) if text and text not in parts)
        return (*parts, *joined, *json_words(self.text))


def content(text: str, *, calls: Sequence[Any], invalid: Sequence[str]) -> str:
    """What a message shows: the text, or where all of the answer was meant as calls and is none, that as written.

    Args:
        text: The words of the answer.
        calls: Its valid calls.
        invalid: Its other calls, as they were written.
    """
    return text if text or calls else "".join(invalid)


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
    full, problem, reading = Spelled(text), None, Reading(None)
    start = -1
    try:
        full = _spelled(text, ids, syntax, tokenizer, opening)
        reading = _read(full, opening, syntax, tokenizer, offered, prompt_ids)
        if reading.calls is None and opening:
            raise NotACallError("the forced call did not come about")
        if reading.calls is None and syntax.marker and syntax.marker in text:
            raise NotACallError("the marker begins no call")
        calls = [_checked(call, allowed) for call in reading.calls or ()]
    except NotACallError as error:
        calls, problem, start = [], str(error), max(error.start, reading.start)
    if reading.calls is None and problem is None:
        return ParsedReply(text)
    # Where the marker can be seen, a stream has shown the text up to it.
    end = text.find(syntax.marker) if syntax.marker else -1
    end = full.shown(max(start, reading.start, len(opening)) - len(opening)) if end < 0 else end
    words = [] if opening else [text[:end].rstrip()]
    raw = opening + full.body if opening else full.body[bisect_left(range(len(full.body)), end, key=full.shown) :]
    if problem is not None:
        return ParsedReply("".join(words), (), _invalid(raw, problem, syntax, allowed), raw, problem)
    places = [[full.shown(max(at - len(opening), 0)) for at in place] for place in reading.words]
    words += [text[max(begin, end) : stop].strip() for begin, stop in places]
    return ParsedReply("\n".join(word for word in words if word), tuple(calls), raw=raw)


def _read(
    full: Spelled,
    opening: str,
    syntax: ToolSyntax,
    tokenizer: PreTrainedTokenizerBase | None,
    tools: Sequence[Tool],
    prompt_ids: Sequence[int],
) -> Reading:
    """The calls in the form that the model writes them; an end mark that is missing after whole JSON is no fault."""
    if not syntax.templated or tokenizer is None:
        return _marked(opening + full.body, syntax)
    try:
        return read_by_template(opening + full.text, tokenizer, tools, prompt_ids)
    except NotACallError:
        ended = with_end(opening + full.body, tokenizer)
        if ended is None or full.text.startswith(ended):
            raise
        return read_by_template(ended, tokenizer, tools, prompt_ids)


def _invalid(raw: str, problem: str, syntax: ToolSyntax, allowed: Sequence[Tool]) -> tuple[InvalidCall, ...]:
    """The pieces of a region that was meant as calls, each from one start to the next."""
    pieces = [raw]
    if syntax.start and not syntax.templated:
        pieces = [piece for piece in re.split(f"(?={re.escape(syntax.start)})", raw) if piece.strip()] or [raw]
    names = [tool["function"]["name"] for tool in allowed]
    found = []
    for piece in pieces:
        named = [name for name in names if json.dumps(name, ensure_ascii=False) in piece or f"={name}>" in piece]
        name = named[0] if len(named) == 1 else None
        found.append(InvalidCall(f"call_{uuid.uuid4().hex[:24]}", name, piece, problem))
    return tuple(found)


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
        raise NotACallError("the tokens do not spell the text")
    return full


def _marked(written: str, syntax: ToolSyntax) -> Reading:
    """Calls as JSON objects between markers."""
    start = at = written.find(syntax.start)
    calls, words = [], []
    try:
        while at >= 0:
            begin = at + len(syntax.start)
            begin += len(written[begin:]) - len(written[begin:].lstrip())
            value, length = json_object(written[begin:])
            end = _past_mark(written, begin + length, syntax.end)
            if set(value) - {"id"} != {"name", syntax.arguments}:
                raise NotACallError(f"the call's keys are not name and {syntax.arguments}")
            calls.append({"name": value["name"], "arguments": value[syntax.arguments]})
            at = written.find(syntax.start, end)
            words.append((end, at if at >= 0 else len(written)))
    except NotACallError as error:
        error.start = start
        raise
    return Reading(calls, start, words) if calls else Reading(None)


def _past_mark(written: str, at: int, mark: str) -> int:
    """Behind the end mark; where the answer ends within it or before it, or goes on in another line, JSON is enough."""
    rest = written[at:].lstrip()
    gap = written[at : len(written) - len(rest)]
    if rest.startswith(mark):
        return len(written) - len(rest) + len(mark)
    if mark.startswith(rest.rstrip()):
        return len(written)
    if "\n" in gap:
        return at
    raise NotACallError("the call does not end with its end marker")


def _checked(call: dict[str, Any], tools: Sequence[Tool]) -> dict[str, Any]:
    tool = next((tool["function"] for tool in tools if tool["function"]["name"] == call["name"]), None)
    if tool is None:
        raise NotACallError("the call names no tool that may be used")
    if not isinstance(call["arguments"], dict):
        raise NotACallError("the call's arguments are not a JSON object")
    if problem := schema_problem(call["arguments"], tool["parameters"]):
        raise NotACallError(f"the arguments do not fit the tool's schema: {problem}")
    try:
        json.dumps(call["arguments"], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise NotACallError("the arguments hold a number or a character that JSON cannot write") from None
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "name": call["name"], "arguments": call["arguments"]}
