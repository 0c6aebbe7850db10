"""What the text class and the chat class share: identity, tracing, token counts, standard parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.language_models import BaseLanguageModel, LangSmithParams
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import run_in_executor
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr, model_validator
from typing_extensions import Self

from ig_plugins import __version__
from ig_plugins.chat.messages import check_unicode
from ig_plugins.guard.adapter_fields import GuardFields, GuardHandle
from langchain_inferenceguard._convert import PROVIDER, to_messages

# Standard parameters of hosted models. A local model has nothing to retry and no key; code written for any
# LangChain model may pass them all the same.
_HOSTED_ONLY = ("max_retries", "api_key")


class GuardedModel(GuardFields, BaseLanguageModel[Any]):
    """A guard seen as a LangChain language model; the subclasses say whether it speaks text or messages."""

    def model_post_init(self, context: Any, /) -> None:
        """Leads on to LangChain's hook, which the guard's private attributes would hide, and its versions with it."""
        BaseLanguageModel.model_post_init(self, context)

    _others: dict[str, GuardHandle] = PrivateAttr(default_factory=dict)
    """Guards of models that calls named instead of `model`."""

    @model_validator(mode="before")
    @classmethod
    def _drop_hosted_parameters(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return {key: value for key, value in values.items() if key not in _HOSTED_ONLY}
        return values

    @model_validator(mode="after")
    def _set_inferenceguard_version(self) -> Self:
        self._add_version("inferenceguard", __version__)
        return self

    @property
    def model_name(self) -> str:
        """The model's name, under the name that LangChain's users look for it."""
        return self.model

    def _named(self, model: str | None) -> Self:
        """This object, or for one call the same settings on another model; each is loaded once."""
        if model is None or model == self.model:
            return self
        other = self.model_copy(update={"model": model})
        other._handle = self._others.setdefault(model, GuardHandle())
        return other

    async def _loaded(self) -> None:
        """Loads the weights, if nobody has yet, without holding up the event loop."""
        if not self.is_loaded:
            await run_in_executor(None, lambda: self.guard)

    def _trace_params(
        self, kind: Literal["chat", "llm"], stop: list[str] | None, options: Mapping[str, Any]
    ) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER, ls_model_type=kind, ls_model_name=options.get("model") or self.model_name
        )
        temperature = options.get("temperature", self.temperature)
        max_tokens = options.get("max_tokens", self.max_tokens)
        stop = stop if stop is not None else self.stop
        if temperature is not None:
            params["ls_temperature"] = float(temperature)
        if max_tokens is not None:
            params["ls_max_tokens"] = max_tokens
        if stop:
            params["ls_stop"] = stop
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """The text's token ids in the model's own tokenizer, without special tokens."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        check_unicode(text, "the text")
        return list(self.guard.tokenizer.encode(text, add_special_tokens=False))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the messages as the model will read them: rendered by its chat format, tools included."""
        formatted = [convert_to_openai_tool(tool) for tool in tools] if tools else None
        return self.guard.count_tokens(to_messages(messages), tools=formatted)
