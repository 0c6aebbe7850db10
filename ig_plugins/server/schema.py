"""What the service accepts: OpenAI's requests, as far as a guarded local model has a meaning for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic import BaseModel, ConfigDict, Field, create_model

from critic_models.safety import SafetyBudget
from ig_plugins.call_options import offered
from ig_plugins.chat import Message
from ig_plugins.errors import ConfigurationError
from ig_plugins.server.errors import FieldError
from ig_plugins.server.openai_fields import IGNORED, USUAL, USUAL_TEXT, refuse_unusual
from ig_plugins.server.turns import as_turns

# Where JSON knows less than Python, or a client may say less than the caller of a guard.
_TYPES: dict[str, Any] = {
    "budget": float | list[float] | None,
    "schedule": list[int] | None,
    "stop": str | list[str] | None,
    "chat_template_kwargs": dict[str, Any] | None,
    "tools": list[dict[str, Any]] | None,
    "tool_choice": str | dict[str, Any] | None,
    "json_schema": dict[str, Any] | str | None,
    "choices": list[str] | None,
}
_FIELDS: dict[str, Any] = {
    name: (_TYPES.get(name, kind), Field(default=None, description=words))
    for name, (kind, words) in offered("http").items()
}
_TOOLS = ("tools", "tool_choice")
SCHEMA = "json_schema"  # the option under which a guard decodes under a schema, where it can


def _openai(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Fields whose values are compared afterwards, so that a message can say what to do instead."""
    words = {name: said if isinstance(said, str) else said[1] for table in tables for name, said in table.items()}
    return {name: (Any, Field(default=None, description=said)) for name, said in words.items()}


def model_of_options(
    name: str,
    ignored: Mapping[str, str],
    usual: Mapping[str, tuple[tuple[Any, ...], str]],
    *,
    without: Collection[str] = (),
) -> type[BaseModel]:
    """A model of a guard's options that a client may set, with OpenAI's fields beside them.

    Args:
        name: The model's.
        ignored: Fields that change nothing, and what is said of them.
        usual: Fields of which only some values are taken; see `refuse_unusual`.
        without: Options that this endpoint does not have.
    """
    options = {option: field for option, field in _FIELDS.items() if option not in without}
    return create_model(name, **options, **_openai(ignored, usual))


if TYPE_CHECKING:

    class ChatOptions(BaseModel):
        """A guard's options, and OpenAI's fields of a chat."""

    class TextOptions(BaseModel):
        """The same of a text."""
else:
    ChatOptions = model_of_options("ChatOptions", IGNORED, USUAL)
    TextOptions = model_of_options("TextOptions", IGNORED, USUAL_TEXT, without=_TOOLS)

_STRICT = ConfigDict(extra="forbid", protected_namespaces=())


class StreamOptions(BaseModel):
    """OpenAI's options of a stream.

    Attributes:
        include_usage: A last chunk says what the answer took.
        include_obfuscation: Accepted and not looked at.
    """

    model_config = _STRICT

    include_usage: bool | None = None
    include_obfuscation: Any = None


class Answered(BaseModel):
    """What requests for answers have in common; unknown fields are refused, so that nothing is silently ignored."""

    model_config = _STRICT
    usual: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {}

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, description="Answers to a prompt, each of a search of its own.")

    @property
    def answers(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def streams(self) -> bool:
        """Whether pieces are sent as they are verified."""
        return bool(self.stream)

    @property
    def counts(self) -> bool:
        """Whether a stream ends with what it took."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """The guard's options of this request.

        Args:
            budgets: The service's own, which a client may tighten.

        Raises:
            ConfigurationError: A budget that is looser than the service's, or a field that says what is not done here.
        """
        refuse_unusual({name: getattr(self, name) for name in self.usual}, self.usual)
        chosen = self.model_dump(include=set(_FIELDS), exclude_none=True)
        asked = chosen.get("budget", [])
        for limit, own in zip(asked if isinstance(asked, list) else [asked], budgets, strict=False):
            if not limit <= own.limit:
                raise ConfigurationError(f"budget is {limit}; give at most {own.limit}, which is the service's own")
        return chosen


class ChatRequest(Answered, ChatOptions):
    """A chat request.

    Every option of a call that a client may set is a field, see docs/options.md.

    Attributes:
        messages: The conversation, in OpenAI's form.
        model: One of ``/v1/models``; the first of them by default.
        stream: Server-sent events instead of one answer.
        max_completion_tokens: As ``max_tokens``.
        parallel_tool_calls: Where it is false, the first call alone is handed out.
        response_format: ``text``, ``json_object`` or ``json_schema``.
    """

    usual = USUAL

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None

    def prompts(self) -> list[list[Message]]:
        """The conversation for the guard."""
        return [as_turns(self.messages)]

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """See `Answered`."""
        chosen = super().options(budgets)
        if self.max_completion_tokens is not None:
            if chosen.get("max_tokens", self.max_completion_tokens) != self.max_completion_tokens:
                raise FieldError(
                    "max_tokens and max_completion_tokens differ; give one of them", param="max_completion_tokens"
                )
            chosen["max_tokens"] = self.max_completion_tokens
        return {**chosen, **form_option(self.response_format)}


class CompletionRequest(Answered, TextOptions):
    """A text that the policy continues as it stands, without a prompt format.

    Attributes:
        prompt: One text or several.
    """

    usual = USUAL_TEXT

    prompt: str | list[str]

    def prompts(self) -> list[str]:
        """The texts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """See `Answered`."""
        if not self.prompts():
            raise FieldError("prompt is an empty list; give at least one text", param="prompt")
        return {**super().options(budgets), "raw_prompt": True}


class TokenizeRequest(BaseModel):
    """A text, or a conversation as the policy would read it; exactly one of the three.

    Attributes:
        prompt: A text.
        content: The same, by llama.cpp's name.
        messages: A conversation.
        add_special_tokens: Of a text, whether the tokenizer's own are added.
    """

    model_config = _STRICT

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None

    def given(self) -> str | list[Message]:
        """What is to be counted.

        Raises:
            FieldError: None of the three, or more than one.
        """
        texts = [each for each in (self.prompt, self.content, self.messages) if each is not None]
        if len(texts) != 1:
            raise FieldError("give one of prompt, content and messages", param="prompt")
        return texts[0] if isinstance(texts[0], str) else as_turns(texts[0])


def form_option(wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    """The guard's option for a ``response_format``."""
    if wanted is None or wanted.get("type") == "text":
        return {}
    kind = wanted.get("type")
    if kind not in ("json_object", "json_schema"):
        _refuse_form("response_format.type may only be text, json_object or json_schema")
    if SCHEMA not in _FIELDS:
        _refuse_form(
            "response_format may only be of type text here: this guard does not decode under a schema; say in the "
            "prompt what form you want, or offer a tool with that schema"
        )
    if kind == "json_object":
        return {SCHEMA: {"type": "object"}}
    told = wanted.get("json_schema")
    schema = told.get("schema") if isinstance(told, Mapping) else None
    if not isinstance(schema, Mapping):
        _refuse_form("response_format.json_schema has no schema; give {'name': ..., 'schema': {...}}")
    return {SCHEMA: schema}


def _refuse_form(message: str) -> NoReturn:
    raise FieldError(message, param="response_format")
