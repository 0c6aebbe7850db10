"""What LlamaIndex's programs ask for without saying so: an object, by a tool or by words.

``structured_predict`` comes to the adapter by name. Programs that others make do not: response synthesizers with
``structured_answer_filtering``, ``LLMTextCompletionProgram``, ``FunctionCallingProgram``. They are known by what they
send: a tool that LlamaIndex made of a class, or the words in which its parser asks for a schema.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.output_parsers.pydantic import PYDANTIC_FORMAT_TMPL
from llama_index.core.program import function_program
from llama_index.core.tools import FunctionTool

from ig_plugins.grammar import KINDS, installed
from llama_index.llms.inferenceguard._errors import StructuredOutputError

WORDS, _, CLOSING = PYDANTIC_FORMAT_TMPL.partition("{schema}")


def makes_object(tools: Sequence[Any]) -> bool:
    """Whether LlamaIndex made the only tool of a class, so that its call is the object."""
    made = isinstance(tools[0], FunctionTool) and tools[0].real_fn.__module__ == function_program.__name__
    return made and len(tools) == 1


def asked_schema(messages: Sequence[ChatMessage], *, system_prompt: str | None = None) -> dict[str, Any] | None:
    """The schema that LlamaIndex's parser of pydantic classes asks for in words; None where it asks for none.

    It writes them at the end of the system message, or of the last one where the first is no system message.

    Args:
        messages: The conversation.
        system_prompt: The LLM's own, which LlamaIndex puts in front only when the words are written.
    """
    if messages and system_prompt and messages[0].content == system_prompt:
        messages = messages[1:]
    if not messages:
        return None
    text = messages[0 if messages[0].role == MessageRole.SYSTEM else -1].content or ""
    _, found, rest = text.rpartition(WORDS)
    if not found or not rest.endswith(CLOSING):
        return None
    written = rest.removesuffix(CLOSING)
    for schema in (written, written.replace("{{", "{").replace("}}", "}")):  # its braces are doubled, for templates
        try:
            plain = json.loads(schema)
        except (ValueError, RecursionError):
            continue
        return plain if isinstance(plain, dict) else None
    return None


def held_to(schema: dict[str, Any], *, given: Iterable[str]) -> dict[str, Any]:
    """The guard's option that holds a text to a schema; what no mask can follow, LlamaIndex's parser checks.

    Args:
        schema: The schema.
        given: The call's own options; nothing is added to one that holds the text already.
    """
    if not installed() or set(given) & set(KINDS):
        return {}
    return {"json_schema": {"x-guidance": {"lenient": True}, **schema}}


def whole_object(answer: ChatResponse) -> ChatResponse:
    """An answer as the only item of a stream of objects; LlamaIndex would complete one that was cut off.

    It would also close quotes and braces that stand open in an object's words, and give an empty object then.

    Raises:
        StructuredOutputError: It is no JSON object from its first character to its last.
    """
    text = answer.message.content or ""
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        cut = (answer.raw or {}).get("finish_reason") == "length"
        why = "max_tokens cut it off, so raise that" if cut else "a stop string cut it off, or it is something else"
        raise StructuredOutputError(f"the answer is no JSON object from its first character to its last: {why}")
    answer.delta = text
    if text.count('"') % 2 or text.count("{") > text.count("}"):
        call = ToolSelection(tool_id="", tool_name="object", tool_kwargs=found)
        answer.message.additional_kwargs["tool_calls"] = [call]  # from where a program takes it as it is
    return answer
