"""Contents of messages as frameworks and providers write them, and what a model of texts reads of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ig_plugins.errors import PromptError

# Keys under which blocks of words have them, by kind.
_WORDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "text-plain": "text",
    "refusal": "refusal",
    "tool_result": "content",
}
# What is not meant to be read again: thoughts, calls (messages have them in a place of their own), and marks.
_SILENT = (
    "thinking", "redacted_thinking", "reasoning", "reasoning_content", "tool_use", "tool_call", "tool_call_chunk",
    "function_call", "invalid_tool_call", "server_tool_use", "server_tool_call", "server_tool_call_chunk",
    "server_tool_result", "cachePoint", "cache_point", "citation", "non_standard",
)  # fmt: skip


def content_text(content: Any, where: str, *, role: str, current: bool) -> str:
    """The words of a message's content.

    Of an assistant message only its words are read. Elsewhere a picture, a sound or a file is refused in the current
    turn, which cannot be answered without it; in an older one a mark says that something was there.

    Args:
        content: A text, None, or a list of texts and typed blocks.
        where: Which message it is, for errors.
        role: The message's role.
        current: The message belongs to the turn that is to be answered.

    Raises:
        PromptError: The content is no text, or holds a block that cannot be read and that matters.
    """
    if isinstance(content, str):
        return content
    if content is None and role != "user":
        return ""
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return "".join(_block(block, where, role=role, current=current) for block in content)
    raise PromptError(f"{where} has content that is of type {type(content).__name__}; only text is understood")


def _block(block: Any, where: str, *, role: str, current: bool) -> str:
    if isinstance(block, str):
        return block
    if not isinstance(block, Mapping):
        raise PromptError(f"{where} has content of type {type(block).__name__!r}; only text is understood")
    kind = str(block.get("type") or ("text" if "text" in block else "untyped"))
    key = _WORDS.get(kind)
    if key in block:
        words = block[key]
        if kind == "tool_result" and isinstance(words, list | tuple):
            return content_text(words, where, role=role, current=current)
        if words is None or isinstance(words, str):
            return words or ""
    if kind in _SILENT or role == "assistant":
        return ""
    if not current:
        return f"[{kind} left out]"
    raise PromptError(
        f"{where} has content of type {kind!r}, and InferenceGuard guards models of text; leave it out, describe it in "
        "words, or let a model that reads it answer first and pass on its answer"
    )
