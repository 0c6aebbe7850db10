"""LangChain's messages in, LangChain's messages out: the only place that knows both vocabularies.

    BaseMessage -> {"role", "content", ...} -> guard -> GuardResult -> AIMessage | Generation (and their chunks)

Everything that describes the whole answer (report, finish reason, usage, tool calls) rides on the last chunk alone:
LangChain merges chunk metadata by adding it up, so a name said twice would come out doubled.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk, LLMResult

from ig_plugins.errors import PromptError
from ig_plugins.guard.result import GuardResult, Usage

PROVIDER = "inferenceguard"

_ROLES = {"user": "user", "human": "user", "system": "system", "developer": "system", "assistant": "assistant"}


def to_messages(messages: Iterable[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as the guard's chat formats take them.

    Raises:
        PromptError: A role that no chat format has.
    """
    return [_to_message(message) for message in messages]


def _to_message(message: BaseMessage) -> dict[str, Any]:
    content = message.content  # its blocks are read, or refused, by the core
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": content}
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": content}
    if isinstance(message, AIMessage):
        return _assistant(message)
    if isinstance(message, ToolMessage):
        named = {"name": message.name} if message.name else {}
        return {"role": "tool", "content": content, "tool_call_id": message.tool_call_id, **named}
    if isinstance(message, FunctionMessage):
        return {"role": "tool", "content": content, "name": message.name}
    if isinstance(message, ChatMessage) and message.role in _ROLES:
        return {"role": _ROLES[message.role], "content": content}
    role = getattr(message, "role", message.type)
    raise PromptError(
        f"no chat format has a role {role!r}; use HumanMessage, SystemMessage, AIMessage or ToolMessage "
        f"(or ChatMessage with one of {sorted(_ROLES)})"
    )


def _assistant(message: AIMessage) -> dict[str, Any]:
    """An answer with its calls; invalid ones as they were written, so that the model can do better."""
    calls = [{"id": c["id"] or "", "name": c["name"], "arguments": c["args"]} for c in message.tool_calls]
    blocks = message.content if isinstance(message.content, list) else [message.content]
    written = [call["args"] for call in message.invalid_tool_calls if call["args"]]
    whole = message.content if isinstance(message.content, str) else ""  # of nothing else, where it holds them already
    further = [] if whole and "".join(written) in (whole, unparsable(whole)) else [f"\n{text}" for text in written]
    return {"role": "assistant", "content": [*blocks, *further], **({"tool_calls": calls} if calls else {})}


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Tokens in LangChain's names: what went in, and what came out of the decoder (not what was searched)."""
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def token_usage(usages: Iterable[Usage]) -> dict[str, int]:
    """Tokens in the names that `LLMResult.llm_output` has always used, summed."""
    listed = list(usages)
    prompt, completion = sum(u.prompt_tokens for u in listed), sum(u.completion_tokens for u in listed)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def response_metadata(result: GuardResult, model_name: str) -> dict[str, Any]:
    """What a finished chat answer says about itself."""
    return {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": result.finish_reason,
        "inference_guard": result.report(),
    }


def generation_info(result: GuardResult, model_name: str) -> dict[str, Any]:
    """The same for a text completion; usage is in it because `LLMResult.flatten` drops it from all but the first."""
    return {**response_metadata(result, model_name), "usage": token_usage([result.usage])}


def _refusal(result: GuardResult) -> dict[str, Any]:
    """LangChain's own mark of a refusal; present also when the text is empty (``on_block="empty"``)."""
    return {"refusal": result.text or "blocked"} if result.blocked else {}


def to_chat_generation(result: GuardResult, model_name: str) -> ChatGeneration:
    """A whole answer as an AIMessage."""
    message = AIMessage(
        content=result.content,
        additional_kwargs=_refusal(result),
        tool_calls=[tool_call(id=c["id"], name=c["name"], args=c["arguments"]) for c in result.tool_calls],
        invalid_tool_calls=[
            invalid_tool_call(id=c["id"], name=c["name"], args=unparsable(c["text"]), error=c["problem"])
            for c in result.invalid_tool_calls
        ],
        usage_metadata=usage_metadata(result.usage),
        response_metadata=response_metadata(result, model_name),
    )
    return ChatGeneration(message=message, generation_info={"finish_reason": result.finish_reason})


def unparsable(text: str) -> str:
    """The text of an invalid call, in a form that LangChain cannot take for cut-off JSON, which it would complete."""
    return json.dumps(text, ensure_ascii=False) if text.lstrip()[:1] in ("{", "") else text


def to_chat_chunk(text: str, result: GuardResult | None, model_name: str) -> ChatGenerationChunk:
    """A piece of a streamed answer; the last piece (with `result`) carries all there is to say about it.

    Tool calls come whole in that last piece. LangChain completes cut-off JSON on its own, so a call that streamed
    token by token could be executed half-written.
    """
    if result is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=text))
    calls = [
        tool_call_chunk(id=c["id"], name=c["name"], args=json.dumps(c["arguments"], ensure_ascii=False), index=index)
        for index, c in enumerate(result.tool_calls)
    ]
    # LangChain makes them invalid calls again, without the problem, which the report has.
    calls += [
        tool_call_chunk(id=c["id"], name=c["name"], args=unparsable(c["text"]), index=index)
        for index, c in enumerate(result.invalid_tool_calls)
    ]
    message = AIMessageChunk(
        content=text if result.text else text + result.content,  # nothing of it has been streamed
        additional_kwargs=_refusal(result),
        tool_call_chunks=calls,
        usage_metadata=usage_metadata(result.usage),
        response_metadata=response_metadata(result, model_name),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message)


def to_chunk(text: str, result: GuardResult | None, model_name: str) -> GenerationChunk:
    """A piece of a streamed completion; the last one carries the generation info."""
    return GenerationChunk(text=text, generation_info=generation_info(result, model_name) if result else None)


def to_llm_result(results: Sequence[GuardResult], model_name: str) -> LLMResult:
    """Whole completions, one per prompt."""
    return LLMResult(
        generations=[[Generation(text=r.text, generation_info=generation_info(r, model_name))] for r in results],
        llm_output={"token_usage": token_usage(r.usage for r in results), "model_name": model_name},
    )
