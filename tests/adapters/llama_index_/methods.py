"""One way to call all eight methods."""

from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse

from llama_index.llms.inferenceguard import InferenceGuardLLM

METHODS = [
    "chat",
    "stream_chat",
    "achat",
    "astream_chat",
    "complete",
    "stream_complete",
    "acomplete",
    "astream_complete",
]


@dataclass(frozen=True)
class Item:
    """What a chat response and a completion response have in common."""

    text: str
    delta: str | None
    raw: Any
    additional_kwargs: dict[str, Any]
    response: Any


def item(response: Any) -> Item:
    chat = isinstance(response, ChatResponse)
    text = (response.message.content or "") if chat else response.text
    return Item(text, response.delta, response.raw, response.additional_kwargs, response)


async def call(llm: InferenceGuardLLM, method: str, prompt: str, **options: Any) -> list[Item]:
    """The items that a method gives; one, if it does not stream."""
    asked = [ChatMessage(role="user", content=prompt)] if "chat" in method else prompt
    answer = getattr(llm, method)(asked, **options)
    if method.startswith("a"):
        answer = await answer
        return [item(x) async for x in answer] if "stream" in method else [item(answer)]
    return [item(x) for x in answer] if "stream" in method else [item(answer)]
