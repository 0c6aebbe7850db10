"""What a call may change about a guard. Nothing here turns it off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import Unpack

from critic_models.safety import Budgets, SafetyBudget
from critic_models.validation import explain
from ig_plugins.call_options import CallOptions, LastAssistant, OnBlock
from ig_plugins.errors import ConfigurationError, did_you_mean
from ig_plugins.grammar import KINDS, as_schema, check
from ig_plugins.runtime.judging import JUDGE_SECONDS
from ig_plugins.search import SearchConfig
from ig_plugins.search.config import renamed

REFUSAL = "I'm sorry, but I can't answer that safely."

_SEARCH = {**{name: name for name in SearchConfig.model_fields}, "max_tokens": "max_new_tokens"}


class Options(BaseModel):
    """Everything about a request that is not a model. `CallOptions` explains each option.

    Attributes:
        search: The search's settings.
        budgets: One a cost model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    search: SearchConfig = SearchConfig()
    budgets: tuple[SafetyBudget, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    timeout: float | None = Field(default=None, gt=0)
    judge_timeout: float = Field(default=JUDGE_SECONDS, gt=0, allow_inf_nan=False)
    on_block: OnBlock = "refuse"
    refusal: str = REFUSAL
    raw_prompt: bool = False
    last_assistant: LastAssistant = "turn"
    chat_template_kwargs: Mapping[str, Any] = {}
    tools: tuple[Any, ...] = ()
    tool_choice: Any = "auto"
    tool_threshold: float | None = Field(default=None, allow_inf_nan=False)
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()
    grammar: str | None = None
    logits_processors: tuple[Any, ...] = ()
    trace: bool = False

    @property
    def held_to(self) -> tuple[str, Any] | None:
        """What an answer must be: the kind of grammar and what the caller said; None for anything."""
        return next(((kind, value) for kind in KINDS if (value := getattr(self, kind)) not in (None, ())), None)

    @field_validator("search")
    @classmethod
    def _checked_again(cls, search: SearchConfig) -> SearchConfig:
        """Pydantic takes an instance as it is, and one made by ``model_copy(update=...)`` was never checked."""
        return SearchConfig(**search.model_dump())

    def updated(self, **overrides: Unpack[CallOptions]) -> Options:
        """These options with some of them changed; None leaves a setting as it is, except for seed and timeout.

        Raises:
            TypeError: A name that is no option.
            ConfigurationError: A value that is not allowed.
        """
        named = renamed(overrides)
        check_names(named)
        given = {key: value for key, value in named.items() if value is not None or key in ("seed", "timeout")}
        search = {_SEARCH[key]: value for key, value in given.items() if key in _SEARCH}
        if search.get("adaptive") == "auto":  # as the guard's preset says, which these options hold
            del search["adaptive"]
        mine = {key: value for key, value in given.items() if key in _OWN}
        mine |= one_grammar({key: mine[key] for key in KINDS if key in mine})
        for key in ("stop", "stop_token_ids", "tools", "logits_processors"):
            if key in mine:
                mine[key] = (mine[key],) if isinstance(mine[key], str) else tuple(mine[key])
        with configuration_errors():
            if search:
                mine["search"] = SearchConfig(**{**self.search.model_dump(), **search})
            if "budget" in given:
                mine["budgets"] = as_budgets(given["budget"], self.budgets)
            values = {name: getattr(self, name) for name in Options.model_fields}
            return Options(**{**values, **mine})


_OWN = frozenset(Options.model_fields) - {"search", "budgets"}


def check_names(names: Iterable[str]) -> None:
    """Refuses names that are no option.

    Raises:
        TypeError: Names the first of them and all that are allowed.
    """
    allowed = {"budget", *_OWN, *_SEARCH}
    unknown = sorted(set(names) - allowed)
    if unknown:
        near = did_you_mean(unknown[0], allowed)
        raise TypeError(f"unknown option {unknown[0]!r}; the options are {', '.join(sorted(allowed))}.{near}")


def one_grammar(given: Mapping[str, Any]) -> dict[str, Any]:
    """A call's grammar, checked, without any that it takes the place of; an empty one takes a guard's away.

    Raises:
        ConfigurationError: There are two, or it is none.
    """
    if not given:
        return {}
    wished = {kind: value for kind, value in given.items() if value or isinstance(value, Mapping)}
    if len(wished) > 1:
        raise ConfigurationError(f"{' and '.join(wished)} are both given; an answer is held to one of them")
    for kind, value in wished.items():
        check(kind, value)
    as_given: dict[str, Callable[[Any], Any]] = {"json_schema": as_schema, "choices": tuple}
    none = {"json_schema": None, "regex": None, "choices": (), "grammar": None}
    return {**none, **{kind: as_given.get(kind, str)(value) for kind, value in wished.items()}}


def as_budgets(budget: Budgets, defaults: Sequence[SafetyBudget]) -> tuple[SafetyBudget, ...]:
    """One budget per cost model, from whatever a caller may write.

    Args:
        budget: A budget, or a bare limit that keeps the default's accounting; a list of them for several cost models.
        defaults: The cost models' default budgets.
    """
    given = list(budget) if isinstance(budget, list | tuple) else [budget]
    if len(given) != len(defaults):
        raise ConfigurationError(
            f"{len(given)} budget(s) for {len(defaults)} cost model(s); give one budget for each, in the same order"
        )
    return tuple(
        SafetyBudget(
            **(each.model_dump() if isinstance(each, SafetyBudget) else {**default.model_dump(), "limit": each})
        )
        for each, default in zip(given, defaults, strict=True)
    )


def one_of(name: str, value: object, allowed: Any) -> None:
    """Refuses a word that is none of a ``Literal``'s.

    Raises:
        ConfigurationError: Names the value and what is allowed.
    """
    if value not in get_args(allowed):
        raise ConfigurationError(f"{name} is {value!r}; give {' or '.join(map(repr, get_args(allowed)))}")


class configuration_errors:  # noqa: N801  (a context manager reads as a verb)
    """Turns pydantic's validation errors into ours: which setting, its value, what is allowed."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValidationError):
            raise ConfigurationError(explain(error)) from None
