"""Conversations as callers hand them in, checked and brought to one form before any format sees them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ig_plugins.chat.blocks import content_text
from ig_plugins.errors import PromptError

Message: TypeAlias = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")
# OpenAI's newer and older names, and what its assistant messages hold that is not read again.
_OTHER_ROLES = {"developer": "system", "function": "tool"}
_UNREAD = ("refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content", "thinking")

# The turn markers of the Safe-RLHF text format, which policies and score models of that family were trained on.
# Inside a longer word they count too: the models see tokens, not words.
_TURN = re.compile(r"(BEGINNING OF CONVERSATION|[A-Z]{0,20}(?:USER|ASSISTANT))(?=\s*:)")


def as_messages(prompt: str | Sequence[Message], *, partial: bool = False) -> list[dict[str, Any]]:
    """Check a prompt and bring it to one form.

    A string is one user turn. Contents become strings, tool calls ``{"id", "name", "arguments"}`` with a dict of
    arguments (OpenAI's nested form is understood), system texts move to the front as one message, turns of one role
    in a row are joined by a blank line, messages without words are left out but for older answers, and a tool result
    learns its function's name from the call that it answers.

    Args:
        prompt: The text of one user turn, or messages with the keys of ``KEYS``.
        partial: It is a piece of a conversation, which nobody is to answer; it may be empty.

    Returns:
        New message dicts: at most one system message, first; a user message unless it stands alone.

    Raises:
        PromptError: For an empty prompt, an unknown role or key, or content that is not text.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or not (prompt or partial):
        raise PromptError(f"the prompt is {_shape(prompt)}; give a text or a non-empty list of messages")
    asked = max((i for i, m in enumerate(prompt) if isinstance(m, Mapping) and m.get("role") == "user"), default=0)
    current = len(prompt) if partial else asked
    read = [_message(message, index, current=index >= current) for index, message in enumerate(prompt)]
    for index, message in enumerate(read):
        check_unicode(message, f"message {index}")
    checked = [message for message in read if message["role"] in ("assistant", "tool") or _says(message)]
    while not partial and len(checked) > 1 and checked[-1]["role"] == "assistant" and not _says(checked[-1]):
        checked.pop()
    _name_results(checked)
    system = [message["content"] for message in checked if message["role"] == "system"]
    turns = [message for message in checked if message["role"] != "system"]
    head = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    alone = bool(head) and not turns
    if not (partial or alone or any(message["role"] == "user" for message in turns)):
        raise PromptError("the conversation has no user message; add one, such as {'role': 'user', 'content': '...'}")
    return head + _joined(turns)


def _says(message: Message) -> bool:
    return bool(message["content"].strip() or message.get("tool_calls"))


def check_unicode(value: Any, where: str) -> None:
    """Refuses texts with half a character, which JSON can carry and no tokenizer can read.

    Raises:
        PromptError: There is one in this JSON value.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where} holds the lone surrogate U+{ord(error.object[error.start]):04X}, which is half a character; "
            "send whole characters"
        ) from None


def judge_prompt(messages: Sequence[Message]) -> str:
    """What text judges are told the answer replies to.

    A single user turn is its text. Anything longer is a conversation with a label a turn; lines inside a turn are
    indented, so that no text can pass itself off as another turn.

    Args:
        messages: As returned by ``as_messages``.
    """
    if len(messages) == 1:
        return defuse_turns(messages[0]["content"])
    return defuse_turns("\n".join(_line(message) for message in messages))


def defuse_turns(text: str) -> str:
    """Write the Safe-RLHF turn markers in ordinary case: ``ASSISTANT:`` becomes ``Assistant:``.

    The models of that family know only the upper-case marker, so the text stays readable and opens no turn.
    """
    return _TURN.sub(lambda match: match[0].capitalize(), text)


def call_text(call: Mapping[str, Any]) -> str:
    """One tool call as a JSON object, as our own tool syntax writes it."""
    return json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)


def _line(message: Message) -> str:
    text = message["content"]
    calls = "\n".join(f"calls {call_text(call)}" for call in message.get("tool_calls", ()))
    label = message["role"].capitalize()
    if message["role"] == "tool":
        label = f"Result of {message['name']}" if message.get("name") else "Result"
    body = "\n".join(part for part in (text, calls) if part)
    # splitlines knows every line end that a reader, or a judge's tokenizer, may take for one
    return f"{label}: " + "\n  ".join(body.splitlines())


def _message(message: Any, index: int, *, current: bool) -> dict[str, Any]:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} is {_shape(message)}; a message is a dict with 'role' and 'content'")
    role = _OTHER_ROLES.get(str(message.get("role")), message.get("role"))
    if role not in ROLES:
        raise PromptError(f"{where} has the role {role!r}; allowed are {', '.join(ROLES)}")
    known = {*KEYS, *(_UNREAD if role == "assistant" else ())}
    if unknown := [str(key) for key in message if key not in known]:
        raise PromptError(f"{where} has the unknown key {unknown[0]!r}; allowed are {', '.join(KEYS)}")
    calls = message.get("tool_calls") or ()
    if calls and role != "assistant":
        raise PromptError(f"{where} is a {role} message with tool_calls; only assistant messages carry them")
    content = content_text(message.get("content"), where, role=role, current=current or role == "system")
    content = content or (str(message.get("refusal") or "") if role == "assistant" else "")
    if role == "user" and current and not content.strip():
        raise PromptError(f"{where} is an empty user message; give it some text")
    checked: dict[str, Any] = {"role": role, "content": content}
    if calls:
        checked["tool_calls"] = [_call(call, where) for call in calls]
    for key in ("tool_call_id", "name"):
        if role == "tool" and message.get(key) is not None:
            checked[key] = str(message[key])
    return checked


def _call(call: Any, where: str) -> dict[str, Any]:
    call = call if isinstance(call, Mapping) else {}
    inner = call.get("function", call)
    inner = inner if isinstance(inner, Mapping) else {}
    name, arguments = inner.get("name"), inner.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (json.JSONDecodeError, RecursionError):
            arguments = None
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        raise PromptError(f"{where} has a tool call without a name or without a JSON object of arguments")
    return {"id": str(call.get("id") or ""), "name": name, "arguments": dict(arguments)}


def _name_results(messages: list[dict[str, Any]]) -> None:
    names: dict[str, str] = {}
    for message in messages:
        names.update({call["id"]: call["name"] for call in message.get("tool_calls", ())})
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message["name"] = names[message["tool_call_id"]]


def _joined(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = []
    for turn in turns:
        last = joined[-1] if joined else None
        plain = last is not None and "tool_calls" not in last and "tool_calls" not in turn and turn["role"] != "tool"
        if last is not None and plain and last["role"] == turn["role"]:
            last["content"] = "\n\n".join(text for text in (last["content"], turn["content"]) if text)
        else:
            joined.append(dict(turn))
    return joined


def _shape(value: Any) -> str:
    return "an empty list" if isinstance(value, Sequence) and not value else f"of type {type(value).__name__}"
