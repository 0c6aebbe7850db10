"""Calls as a tokenizer's ``response_template`` (transformers 5.13) reads them, each closed by the model itself.

``tokenizer.parse_response`` also closes a call that the end of the text cuts off, and some content parsers then return
what arguments there were. So its streaming twin gets a NUL behind the text: where that lands in a call, it was cut off.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.strict_json import NotACallError, json_value
from ig_plugins.chat.tools import Tool

_NUL = "\0"


class Reading(NamedTuple):
    """What an answer was found to be made of; places are those of the text that was read.

    Attributes:
        calls: The calls; None where the answer begins none.
        start: Up to where it surely holds no call.
        words: Places behind that which hold words.
    """

    calls: list[dict[str, Any]] | None
    start: int = -1
    words: Sequence[tuple[int, int]] = ()


def read_by_template(
    written: str, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool], prompt_ids: Sequence[int]
) -> Reading:
    """Read an answer's calls.

    Args:
        written: The answer with its special tokens.
        tokenizer: The policy's.
        tools: The tools offered.
        prompt_ids: What came before, which a template may want to see.

    Raises:
        NotACallError: A call is malformed or was cut off.
    """
    field = tokenizer.response_template["fields"]["tool_calls"]
    if _NUL in written:
        raise NotACallError("the answer contains a NUL")
    events = _events(written, field, tokenizer, tools, prompt_ids)
    start, words = _places(events, written)
    if start is None:
        return Reading(None)
    try:
        return Reading(_calls(events, field), start, words)
    except NotACallError as error:
        error.start = start
        raise


def with_end(written: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The answer with the end mark that it may lack where its calls are JSON; None where they are not.

    A cut-off call is none with the mark either: its JSON does not parse.
    """
    field = tokenizer.response_template["fields"]["tool_calls"]
    close = field.get("close")
    if field.get("content") != "json" or field.get("content_args") or not isinstance(close, str):
        return None
    begun = next((n for n in range(len(close), 0, -1) if written.endswith(close[:n])), 0)
    return written[: len(written) - begun] + close


def _events(
    written: str,
    field: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool],
    prompt_ids: Sequence[int],
) -> list[dict[str, Any]]:
    # A call without an end marker, which its JSON alone ends, needs no NUL: cut-off JSON does not parse.
    ends_itself = field.get("content") == "json" and not {"close", "close_pattern"} & set(field)
    try:
        parser = tokenizer.get_response_parser(prefix=list(prompt_ids) or "", tools=list(tools))
        return list(parser.feed(written if ends_itself else written + _NUL) + parser.finalize()[1])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NotACallError("the response template cannot read the call, or it was cut off") from None


def _places(events: Sequence[dict[str, Any]], written: str) -> tuple[int | None, list[tuple[int, int]]]:
    """Where the first call begins at the earliest, and where words stand behind that.

    Chunks are pieces of the answer, in order; between them are marks that events leave out.
    """
    start, at = None, 0
    words = []
    for event in events:
        if _is(event, "region_open") and start is None:
            start = at
        elif event["type"] == "region_chunk":
            chunk = event["text"].removesuffix(_NUL)
            found = written.find(chunk, at)  # a first chunk may begin in the prompt, and is not found then
            at = found + len(chunk) if found >= 0 else at
            if found >= 0 and start is not None and event["field"] != "tool_calls":
                words.append((found, at))
    return start, words


def _calls(events: Sequence[dict[str, Any]], field: dict[str, Any]) -> list[dict[str, Any]]:
    if any(_is(event, "region_chunk") and _NUL in event["text"] for event in events):
        raise NotACallError("the call does not end with its end marker")
    if field.get("content") == "json" and not field.get("content_args"):
        for body in _bodies(events):
            json_value(body.lstrip())
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
        raise NotACallError("the call names a function twice")
    if keys not in ({"name", "arguments"}, {"name", "parameters"}):
        raise NotACallError("the call's keys are not name and arguments")
    return {"name": inner["name"], "arguments": inner.get("arguments", inner.get("parameters"))}
