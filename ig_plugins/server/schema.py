"""What the service accepts: the OpenAI chat request, as far as a guarded local model has a meaning for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from critic_models.safety import SafetyBudget
from ig_plugins.call_options import offered
from ig_plugins.chat import Message
from ig_plugins.errors import ConfigurationError

# Where JSON knows less than Python, or a client may say less than the caller of a guard.
_TYPES: dict[str, Any] = {
    "budget": float | list[float] | None,
    "schedule": list[int] | None,
    "stop": str | list[str] | None,
    "tools": list[dict[str, Any]] | None,
    "tool_choice": str | dict[str, Any] | None,
    "json_schema": dict[str, Any] | str | None,
    "choices": list[str] | None,
}
_FIELDS: dict[str, Any] = {
    name: (_TYPES.get(name, kind), Field(default=None, description=words))
    for name, (kind, words) in offered("http").items()
}

if TYPE_CHECKING:
    ClientOptions = BaseModel
else:
    ClientOptions = create_model("ClientOptions", **_FIELDS)


class ChatRequest(ClientOptions):
    """A chat request; unknown fields are refused, so that no setting is silently ignored.

    Every option of a call that a client may set is a field, see docs/options.md.

    Attributes:
        messages: The conversation, in OpenAI's form.
        model: Accepted and not looked at: the service serves one guard.
        stream: Server-sent events instead of one answer.
        user: Accepted and not looked at.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    user: str | None = None

    def conversation(self) -> list[Message]:
        """The messages for the guard."""
        return list(self.messages)

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """The guard's options of this request.

        Args:
            budgets: The service's own, which a client may tighten.

        Raises:
            ConfigurationError: A budget that is looser than the service's.
        """
        chosen = self.model_dump(include=set(_FIELDS), exclude_none=True)
        asked = chosen.get("budget", [])
        for limit, own in zip(asked if isinstance(asked, list) else [asked], budgets, strict=False):
            if not limit <= own.limit:
                raise ConfigurationError(f"budget is {limit}; give at most {own.limit}, which is the service's own")
        return chosen
