"""What the service accepts: the OpenAI chat request, as far as a guarded local model has a meaning for it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ig_plugins.chat import Message


class ChatRequest(BaseModel):
    """A chat request; unknown fields are refused, so that no setting is silently ignored.

    Attributes:
        messages: The conversation, in OpenAI's form.
        model: Accepted and not looked at: the service serves one guard.
        stream: Server-sent events instead of one answer.
        max_tokens, temperature, top_p, stop, seed, tools, tool_choice: As in the guard's options.
        candidates, beams, block_tokens, tries, timeout: The guard's own.
        user: Accepted and not looked at.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    candidates: int | None = None
    beams: int | None = None
    block_tokens: int | None = None
    tries: int | None = None
    timeout: float | None = None
    user: str | None = None

    def conversation(self) -> list[Message]:
        """The messages for the guard."""
        return list(self.messages)

    def options(self) -> dict[str, Any]:
        """The guard's options of this request."""
        chosen = self.model_dump(exclude={"messages", "model", "stream", "user"}, exclude_none=True)
        stop = chosen.get("stop")
        return {**chosen, "stop": [stop]} if isinstance(stop, str) else chosen
