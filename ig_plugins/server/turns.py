"""Messages as OpenAI's clients send them, histories included, brought to what the guard's prompt formats read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ig_plugins.chat import Message
from ig_plugins.server.errors import FieldError

EMPTY: tuple[Any, ...] = (None, [], {}, "")
# What clients send back of an answer and of themselves, and which is no part of the conversation.
OF_ANSWERS = ("refusal", "annotations", "parsed", "inference_guard")
UNREADABLE = {"audio": "this service reads text", "function_call": "say tool_calls"}


def as_turns(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages for the guard.

    The role ``developer`` is ``system`` by its old name. An assistant's ``refusal``, this service's own included, is
    what it said, unless ``content`` says it too.

    Raises:
        FieldError: A message carries what cannot be read here.
    """
    return [_turn(message, index) for index, message in enumerate(messages)]


def _turn(message: Mapping[str, Any], index: int) -> Message:
    turn = dict(message)
    for key, instead in UNREADABLE.items():
        if turn.pop(key, None) not in EMPTY:
            raise FieldError(f"message {index} has {key}; {instead}", param=f"messages.{index}.{key}")
    if turn.get("role") == "developer":
        turn["role"] = "system"
    if turn.get("role") == "assistant":
        refusal = turn.get("refusal")
        turn["content"] = _said(turn.get("content"))
        if isinstance(refusal, str) and turn["content"] in EMPTY:
            turn["content"] = refusal
        for key in OF_ANSWERS:
            turn.pop(key, None)
    return {key: value for key, value in turn.items() if value is not None or key == "content"}


def _said(content: Any) -> Any:
    """An assistant's content; a refusal may be one of its parts."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("refusal")}
        if isinstance(part, Mapping) and part.get("type") == "refusal"
        else part
        for part in content
    ]
