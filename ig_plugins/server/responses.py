"""OpenAI's newer endpoint, ``/v1/responses``: the same answers in another form. Whole answers of one text each.

Tools, streams and stored conversations are refused by name; ``/v1/chat/completions`` has the first two.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from critic_models.safety import SafetyBudget
from ig_plugins.chat import Message
from ig_plugins.guard import GuardResult
from ig_plugins.server.errors import FieldError
from ig_plugins.server.forms import REPORT, Form, usage
from ig_plugins.server.openai_fields import IGNORED
from ig_plugins.server.schema import Answered, form_option, model_of_options
from ig_plugins.server.served import Served
from ig_plugins.server.turns import as_turns

_CHAT = "ask /v1/chat/completions, which has them"
_NO_STATE = "nothing is stored here; send the whole conversation as input"
USUAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), _CHAT),
    "tool_choice": (("auto", "none"), _CHAT),
    "stream": ((False,), _CHAT),
    "n": ((1,), _CHAT),
    "previous_response_id": ((), _NO_STATE),
    "conversation": ((), _NO_STATE),
    "background": ((False,), "answers are waited for"),
    "include": (([],), "there is nothing more to include"),
    "reasoning": (({},), "how much is searched is said by candidates and beams"),
    "max_tool_calls": ((), "no tools are called here"),
    "prompt": ((), "send the text itself"),
    "top_logprobs": ((0,), "the policy's probabilities are not the answer's"),
}
TAKEN = {"truncation": "Accepted and not looked at: a prompt that is too long is refused.", "parallel_tool_calls": ""}
TEXTS = ("input_text", "output_text", "text")

if TYPE_CHECKING:

    class ResponseOptions(BaseModel):
        """A guard's options, and OpenAI's fields."""
else:
    ResponseOptions = model_of_options("ResponseOptions", {**IGNORED, **TAKEN}, USUAL, without=USUAL)


class ResponseRequest(Answered, ResponseOptions):
    """A request for a response.

    Attributes:
        input: A text, or messages in this endpoint's form.
        instructions: A system message.
        max_output_tokens: As ``max_tokens``.
        text: The answer's form, as ``response_format`` elsewhere.
    """

    usual = USUAL

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: dict[str, Any] | None = Field(default=None)

    def prompts(self) -> list[list[Message]]:
        """The conversation for the guard."""
        given = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        told = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return [as_turns([*told, *(_message(each, index) for index, each in enumerate(given))])]

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """See `Answered`."""
        chosen = super().options(budgets)
        if self.max_output_tokens is not None:
            chosen["max_tokens"] = self.max_output_tokens
        if extra := [name for name in self.text or {} if name != "format"]:
            raise FieldError(f"text.{extra[0][:40]} is not done here; give text.format alone", param="text")
        form = (self.text or {}).get("format")
        if isinstance(form, Mapping) and form.get("type") == "json_schema":
            form = {"type": "json_schema", "json_schema": {"schema": form.get("schema")}}
        return {**chosen, **form_option(form)}


class ResponseForm(Form):
    """The form of ``/v1/responses``."""

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self._model = served.name

    def whole(self, results: Sequence[GuardResult], prompts: int) -> dict[str, Any]:
        """See `Form`."""
        (result,) = results
        spent = usage(results, prompts)
        why = {"content_filter": "content_filter", "length": "max_output_tokens"}.get(result.finish_reason)
        part = {"type": "output_text", "text": result.content, "annotations": []}
        if result.blocked:
            part = {"type": "refusal", "refusal": result.text}
        status = "incomplete" if why else "completed"
        message = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "status": status}
        return {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "incomplete_details": {"reason": why} if why else None,
            "error": None,
            "model": self._model,
            "output": [{**message, "content": [part]}],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "metadata": {},
            "usage": {
                "input_tokens": spent["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": spent["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": spent["total_tokens"],
            },
            REPORT: result.report(),
        }


def _message(item: Mapping[str, Any], index: int) -> dict[str, Any]:
    """An item of the input as a message of a chat."""
    kind = item.get("type") or "message"
    if kind != "message":
        raise FieldError(f"input {index} has type {str(kind)[:40]!r}; only message is understood", param="input")
    content = item.get("content")
    if isinstance(content, list):
        content = [
            {"type": "text", "text": part.get("text")}
            if isinstance(part, Mapping) and part.get("type") in TEXTS
            else part
            for part in content
        ]
    return {"role": item.get("role"), "content": content}
