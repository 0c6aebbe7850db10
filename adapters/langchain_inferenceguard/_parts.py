"""Every text that a message of LangChain carries: what is said or thought, and what is called."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from ig_plugins.chat import argument_words, call_words


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
# Keys of blocks that hold marks of their provider and no words.
_MARKS = _kinds(
    "type id index start_index end_index signature thought_signature call_id tool_call_id tool_use_id item_id file_id "
    "encrypted_content encrypted_index cache_control status __gemini_function_call_thought_signatures__ "
    "__openai_function_call_ids__"
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
        elif key not in _MARKS:
            _add(found, {"type": "json", "value": value})
    found.words.append(words_in_name(message))
    if isinstance(message, AIMessage):
        found.calls += [call_text(call) for call in message.tool_calls]
        found.calls += ["\n".join(_strings(dict(call))) for call in message.invalid_tool_calls]
    return Parts(*(list(dict.fromkeys(text for text in texts if text)) for texts in vars(found).values()))


def words_in_name(message: BaseMessage) -> str:
    """A message's name where it may say something: a user's own, and any that is no name of an agent or a tool."""
    name = message.name or ""
    return "" if _NAME.fullmatch(name) and not isinstance(message, HumanMessage) else name


def call_text(call: Mapping[str, Any]) -> str:
    """A tool call as the judge reads it: what the tool gets, without JSON's escapes."""
    return call_words({"name": call["name"], "arguments": call["args"]})


def strings(value: Any) -> list[str]:
    """Every string in an object, keys included."""
    return [text for text in _strings(value) if text]


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
        for key, value in block.items():
            if key not in _MARKS:
                _inside(found, value)
    else:
        found.unread.append(kind)


def _inside(found: Parts, value: Any) -> None:
    """Strings of a readable block; blocks in it may again be media."""
    if isinstance(value, Mapping):
        if value.get("type") in MEDIA:
            found.unread.append(str(value["type"]))
            return
        for key, item in value.items():
            if key not in _MARKS:
                _inside(found, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _inside(found, item)
    elif isinstance(value, str):
        found.words.append(value)
    elif isinstance(value, bytes):
        found.unread.append("bytes")


def _call(block: Mapping[str, Any]) -> str:
    function = block.get("function")
    inner = function if isinstance(function, Mapping) else block
    keys = ("args", "arguments", "input", "parameters")
    lines = [str(inner.get("name") or "")]
    for key, value in inner.items():
        if key in keys and isinstance(value, str):
            lines += [value, *_parsed(value)]
        elif key in keys and isinstance(value, Mapping):
            lines.append(argument_words(value))
        elif key != "name" and key not in _MARKS:
            lines += _strings(value)
    return "\n".join(line for line in lines if line)


def _parsed(arguments: str) -> list[str]:
    try:
        return strings(json.loads(arguments))
    except (ValueError, RecursionError):
        return []


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _strings(item)
