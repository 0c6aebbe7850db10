"""LlamaIndex messages in, guarded results out. Pure functions; nothing here decodes."""

import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from ig_plugins.errors import PromptError
from ig_plugins.guard import GuardResult

ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_messages(messages: Sequence[ChatMessage], *, system_prompt: str | None = None) -> list[dict[str, Any]]:
    """The core's messages for a LlamaIndex conversation.

    Args:
        messages: Text, tool calls and tool results of any role; thinking and cache marks are left out.
        system_prompt: The LLM's own. LlamaIndex puts it before the messages on some paths and not on others, so it
            is added only where it is missing.

    Raises:
        PromptError: There is no message.
    """
    if not messages:
        raise PromptError("messages is empty; give at least one, such as ChatMessage(role='user', content='Hello')")
    converted = [_message(message) for message in messages]
    if system_prompt and {"role": "system", "content": system_prompt} not in converted:
        converted.insert(0, {"role": "system", "content": system_prompt})
    return converted


def _message(message: ChatMessage) -> dict[str, Any]:
    pieces = [_piece(block) for block in message.blocks if not isinstance(block, ToolCallBlock)]
    if ROLES[message.role] == "assistant":  # what it wrote, so that it can do better
        written = [str(call["text"]) for call in message.additional_kwargs.get("invalid_tool_calls", ())]
        pieces += [] if pieces == ["".join(written)] else written
    lines = [piece for found in pieces if found is not None for piece in ("\n", found)][1:]
    words = [line for line in lines if isinstance(line, str)]
    content = "".join(words) if len(words) == len(lines) else lines
    converted: dict[str, Any] = {"role": ROLES[message.role], "content": content}
    calls = [_call(block) for block in message.blocks if isinstance(block, ToolCallBlock)]
    if calls:
        converted["tool_calls"] = calls
    for key in ("tool_call_id", "name"):
        value = message.additional_kwargs.get(key)
        if value and converted["role"] == "tool":
            converted[key] = str(value)
    return converted


def _piece(block: Any) -> str | dict[str, Any] | None:
    """A content block as the core reads it; None if it has nothing to show to the model."""
    if isinstance(block, TextBlock):
        return str(block.text)
    if isinstance(block, (ThinkingBlock, CachePoint)):
        return None
    if isinstance(block, CitationBlock):
        return _piece(block.cited_content)
    if isinstance(block, CitableBlock):
        parts = [_piece(part) for part in block.content]
        if unread := next((part for part in parts if isinstance(part, dict)), None):
            return unread
        return "\n".join([f"{block.title} ({block.source})", *(part for part in parts if isinstance(part, str))])
    return {"type": str(getattr(block, "block_type", type(block).__name__))}  # refused, or left out where it is old


def _call(block: ToolCallBlock) -> dict[str, Any]:
    arguments = block.tool_kwargs
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError as error:
            raise PromptError(
                f"the arguments of the tool call {block.tool_name!r} in the chat history are no JSON ({error.msg}); "
                "store them as a dict"
            ) from error
    return {"id": block.tool_call_id or "", "name": block.tool_name, "arguments": arguments}


def chat_response(
    model: str, text: str, *, delta: str | None = None, result: GuardResult | None = None, parallel: bool = True
) -> ChatResponse:
    """One chat answer, or one item of a stream; only the last item has a result.

    Args:
        model: The model's name, for ``raw``.
        text: The whole text so far.
        delta: What a stream adds with this item.
        result: What the guard says about the finished answer.
        parallel: Keep all tool calls rather than the first one.
    """
    calls = [] if result is None else list(result.tool_calls)[: None if parallel else 1]
    blocks: list[Any] = [TextBlock(text=text)] if text or not calls else []
    blocks += [
        ToolCallBlock(tool_call_id=call["id"], tool_name=call["name"], tool_kwargs=call["arguments"]) for call in calls
    ]
    invalid = list(result.invalid_tool_calls) if result else []
    extra = {"invalid_tool_calls": invalid} if invalid else {}
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=extra)
    return ChatResponse(message=message, delta=delta, **_report(model, result))


def completion_response(
    model: str, text: str, *, delta: str | None = None, result: GuardResult | None = None
) -> CompletionResponse:
    """One completion, or one item of a stream, as ``chat_response``."""
    return CompletionResponse(text=text, delta=delta, **_report(model, result))


def _report(model: str, result: GuardResult | None) -> dict[str, Any]:
    """``raw`` and ``additional_kwargs``: the first is where LlamaIndex counts tokens, and it must be small JSON."""
    if result is None:
        return {}
    usage = {
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "total_tokens": result.usage.prompt_tokens + result.usage.completion_tokens,
    }
    raw = {"model": model, "usage": usage, "finish_reason": result.finish_reason, "inference_guard": result.report()}
    return {"raw": raw, "additional_kwargs": dict(usage)}
