"""Every text that a message of LangChain carries: what is said or thought, and what is called."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from itertools import chain
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage
from pydantic import BaseModel

from ig_plugins.chat import argument_words, call_words
from ig_plugins.chat.json_words import json_words


def _kinds(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Images and their like, and thoughts that only their provider can open: no judge of texts can read them.
MEDIA = _kinds(
    "image image_url input_image image_generation_call audio input_audio video video_url file input_file media "
    "document container_upload redacted_thinking"
)
_WORDS = _kinds(
    "text text-plain input_text output_text reasoning reasoning_content reasoning_text summary_text thinking refusal "
    "citation search_result json guard_content cachePoint tool_result server_tool_result mcp_tool_result "
    "function_call_output code_execution_result code_execution_tool_result bash_code_execution_tool_result "
    "text_editor_code_execution_tool_result web_search_tool_result web_fetch_tool_result tool_search_tool_result "
    "web_search_call file_search_call code_interpreter_call mcp_call mcp_list_tools mcp_approval_request"
)
_CALLS = _kinds(
    "tool_use tool_call tool_call_chunk function function_call invalid_tool_call server_tool_use server_tool_call "
    "server_tool_call_chunk mcp_tool_use custom_tool_call executable_code"
)
# Keys that hold marks of a provider. A mark has no white space in it; what has is read as words.
_MARKS = _kinds(
    "type id index start_index end_index signature thought_signature call_id tool_call_id tool_use_id item_id file_id "
    "encrypted_content encrypted_index cache_control status __gemini_function_call_thought_signatures__ "
    "__openai_function_call_ids__"
)

# Fields of messages that have a place of their own here, or none: see `parts_of`.
_FIELDS = _kinds(
    "content additional_kwargs response_metadata type name id role example tool_calls invalid_tool_calls "
    "tool_call_chunks chunk_position usage_metadata tool_call_id artifact status"
)

_NAME = re.compile(r"[\w.-]{1,64}")  # as hosted models take them


@dataclass
class Parts:
    """What a message carries.

    Attributes:
        words: What is said and thought: contents, reasoning, refusals, citations, results of server tools.
        calls: The calls of tools, valid or not, in plain words.
        unread: Kinds of blocks that cannot be read as text.
    """

    words: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def parts_of(message: BaseMessage) -> Parts:
    """All texts of a message, each once; not ``response_metadata`` and a tool's ``artifact``, which no model reads."""
    found = Parts()
    _add(found, message.content)
    for key, value in message.additional_kwargs.items():
        if key in ("tool_calls", "function_call"):
            _add(found, [{"type": "function", **call} for call in (value if isinstance(value, list) else [value])])
        elif key == "audio":
            _add(found, {"type": "audio"})
            found.words += _strings(value.get("transcript") if isinstance(value, Mapping) else value)
        else:
            _entry(found, key, value)
    for key, value in {**vars(message), **(message.model_extra or {})}.items():
        if key not in _FIELDS:
            _entry(found, key, value)
    found.words += words_in_names(message)
    if isinstance(message, AIMessage):
        found.calls += [call_text(call) for call in message.tool_calls]
        found.calls += ["\n".join(_strings(dict(call))) for call in message.invalid_tool_calls]
    found.words += [words for text in found.words for words in json_words(text)]
    return Parts(*(list(dict.fromkeys(text for text in texts if text)) for texts in vars(found).values()))


def words_in_names(message: BaseMessage) -> list[str]:
    """A message's name and role where they may say something.

    A user's own name may, and any other that is no name of an agent, a tool or a role.
    """
    name = message.name or ""
    names = [name] if isinstance(message, HumanMessage) else _no_names(name)
    return names + (_no_names(message.role) if isinstance(message, ChatMessage) else [])


def said(message: BaseMessage) -> str:
    """What a message says in blocks of any kind."""
    found = Parts()
    _add(found, message.content)
    return "\n".join(found.words)


def call_text(call: Mapping[str, Any]) -> str:
    """A tool call as the judge reads it: what the tool gets, without JSON's escapes."""
    return call_words({"name": call["name"], "arguments": call["args"]})


def strings(value: Any) -> list[str]:
    """Every string in an object as its reader gets it, keys and names of fields included."""
    return [text for text in _strings(value) if text]


def _no_names(key: Any) -> list[str]:
    return [] if _NAME.fullmatch(str(key)) else [str(key)]


def _add(found: Parts, content: Any) -> None:
    if isinstance(content, str):
        found.words.append(content)
    elif isinstance(content, list | tuple):
        for block in content:
            _add(found, block)
    elif isinstance(content, Mapping):
        _block(found, content)
    elif content is not None:
        found.unread.append(type(content).__name__)


def _block(found: Parts, block: Mapping[str, Any]) -> None:
    kind = str(block.get("type") or next((key for key in ("text", "cachePoint") if key in block), "untyped"))
    if kind in _CALLS:
        found.calls.append(_call(block))
    elif kind in _WORDS:
        _fields(found, kind, block)
    else:
        found.unread.append(kind)


def _fields(found: Parts, kind: str, block: Mapping[str, Any]) -> None:
    """What a readable block holds; a plain text that stands elsewhere is a file."""
    if kind == "text-plain" and any(block.get(key) for key in ("base64", "url", "file_id")):
        found.unread.append("file")
    for key, value in block.items():
        _entry(found, key, value)


def _entry(found: Parts, key: Any, value: Any) -> None:
    """A field that a format knows, whose name is no text unless it says something."""
    found.words += _no_names(key)
    _value(found, key, value)


def _value(found: Parts, key: Any, value: Any) -> None:
    if key in _MARKS:
        found.words += _no_marks(value)
    else:
        _inside(found, value)


def _no_marks(value: Any) -> list[str]:
    return [text for text in _strings(value) if re.search(r"\s", text)]


def _inside(found: Parts, value: Any) -> None:
    """Strings of a value in a readable block; blocks in it may again be media, and what is no block is data."""
    if isinstance(value, Mapping):
        kind = str(value.get("type"))
        if kind in MEDIA:
            found.unread.append(kind)
        elif kind in _CALLS:
            found.words.append(_call(value))
        elif kind in _WORDS:
            _fields(found, kind, value)
        else:
            for key, item in value.items():
                found.words.append(str(key))
                _value(found, key, item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _inside(found, item)
    elif isinstance(value, bytes | bytearray | memoryview):
        found.unread.append("bytes")
    else:
        found.words += _strings(value)


def _call(block: Mapping[str, Any]) -> str:
    function = block.get("function")
    around = {key: value for key, value in block.items() if key != "function"}
    parts = [function, around] if isinstance(function, Mapping) else [block]
    keys = ("args", "arguments", "input", "parameters")
    lines = [str(part["name"]) for part in parts if part.get("name")]
    for key, value in chain.from_iterable(part.items() for part in parts):
        lines += _no_names(key)
        if key in keys and isinstance(value, str):
            lines += [value, *_parsed(value)]
        elif key in keys and isinstance(value, Mapping):
            lines.append(argument_words(value))
        elif key in _MARKS:
            lines += _no_marks(value)
        elif key != "name":
            lines += _strings(value)
    return "\n".join(line for line in lines if line)


def _parsed(arguments: str) -> list[str]:
    try:
        return strings(json.loads(arguments))
    except (ValueError, RecursionError):
        return []


def _strings(value: Any, around: tuple[Any, ...] = ()) -> Iterator[str]:
    """Every string in an object; what holds itself is read once."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value).decode("utf-8", "replace")
    elif value is None or (isinstance(value, int | float) and not isinstance(value, Enum)):
        return
    elif not any(value is each for each in around):
        yield from (text for item in _held(value) for text in _strings(item, (*around, value)))


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, Enum):
        yield value.value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, BaseModel):  # not its dump, which leaves fields out and writes others anew
        yield from chain.from_iterable({**vars(value), **(value.model_extra or {})}.items())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from chain.from_iterable((each.name, getattr(value, each.name, None)) for each in fields(value))
    else:
        yield str(value)
        yield from chain.from_iterable(getattr(value, "__dict__", {}).items())
