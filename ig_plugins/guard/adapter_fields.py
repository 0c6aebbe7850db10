"""The flat, typed fields that both adapters share, and the guard behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, model_validator
from typing_extensions import Self

from critic_models import identity
from critic_models.safety import Budgets
from ig_plugins import presets
from ig_plugins.call_options import Adaptive, LastAssistant, OnBlock, Selection, offered
from ig_plugins.errors import MismatchError, ModelLoadError
from ig_plugins.guard.facade import InferenceGuard
from ig_plugins.guard.options import check_names
from ig_plugins.guard.promise import Outside
from ig_plugins.guard.recipe import check_has_name
from ig_plugins.search.config import renamed

# Fields that name models, as opposed to settings that a call may change.
LOADING = (
    "model",
    "cost_model",
    "reward_model",
    "critic",
    "prompt_format",
    "revision",
    "device",
    "dtype",
    "load_options",
    "tokenizer",
    "certificate",
    "outside_certificate",
)
JUDGING = ("cost_model", "reward_model", "critic")  # fields that may hold loaded objects
SETTINGS = tuple(offered("fields"))

_ALIASES = {"max_new_tokens": "max_tokens", "stop_sequences": "stop", "model_name": "model", "model_id": "model"}

_wrapped: WeakValueDictionary[str, InferenceGuard] = WeakValueDictionary()


class GuardHandle:
    """Holds a guard for a model class that frameworks copy, pickle and compare; weights never travel with it.

    A copy shares the guard for as long as its fields name the same models. A pickle carries no guard: it is loaded
    again by name, or, for a guard that was handed in, found again by its token within the same process.
    """

    def __init__(self) -> None:
        self.guard: InferenceGuard | None = None
        self._named: dict[str, Any] = {}

    def holds(self, fields: GuardFields) -> bool:
        """Whether it has a guard, and that guard is the one that these fields name."""
        return self.guard is not None and _same(self._named, fields.named)

    def load(self, fields: GuardFields) -> InferenceGuard:
        """The guard that the fields name."""
        self._named, self.guard = fields.named, fields.load_guard()
        return self.guard

    def __copy__(self) -> GuardHandle:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardHandle:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (GuardHandle, ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GuardHandle)  # the fields say which guard it is

    def __hash__(self) -> int:
        return hash(GuardHandle)

    def __repr__(self) -> str:
        return "GuardHandle()"


def wrapped(token: str) -> InferenceGuard:
    """The guard that was handed to `GuardFields.from_guard` in this process.

    Raises:
        ModelLoadError: It was handed in by another process, or is gone.
    """
    guard = _wrapped.get(token)
    if guard is None:
        raise ModelLoadError(
            "this object wrapped a guard of another process (or one that nobody holds any more), and weights are never "
            "pickled; make it again with from_guard(guard)"
        )
    return guard


def path_as_name(value: Any) -> Any:
    """A `Path` as the string that names the same place; anything else as it is."""
    return str(value) if isinstance(value, Path) else value


def as_list(value: Any) -> Any:
    """One word or number as the list of it; anything else as it is."""
    return [value] if isinstance(value, str | int) else value


class GuardFields(BaseModel):
    """Mixin for framework classes: what they let users set, and how that becomes a guard's call."""

    model: Annotated[str, BeforeValidator(path_as_name)]
    """A preset, a hub id, a local folder, a GGUF file or a server's address (docs/remote.md)."""

    cost_model: Annotated[Any, BeforeValidator(path_as_name)] = None
    """Judges safety: a preset, a checkpoint, a judge, a callable ``f(prompts, responses)``, or a list of these."""

    reward_model: Annotated[Any, BeforeValidator(path_as_name)] = None
    """Judges helpfulness; as ``cost_model``."""

    critic: Annotated[Any, BeforeValidator(path_as_name)] = None
    """The policy's latent critic: a folder, a hub id or a loaded one; False for none."""

    prompt_format: str | None = None
    """``beaver``, ``chat_template``, ``plain`` or ``auto``; the preset's by default."""

    revision: str | None = None
    """The policy's branch, tag or commit on the hub."""

    device: Any = None
    """Where to run; by default CUDA, then MPS, then the CPU."""

    dtype: Any = None
    """Of the policy's weights; the checkpoint's own by default."""

    load_options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to transformers: ``device_map``, ``quantization_config``; or how a server is asked (docs/remote.md)."""

    tokenizer: str | None = None
    """Of a model behind a server's address: a preset, a hub id, a local folder or a GGUF file."""

    certificate: Annotated[str | None, BeforeValidator(path_as_name)] = None
    """A ``certificate.json``; a guard that it was not made for is refused."""

    outside_certificate: Outside = "refuse"
    """A call with other settings than the certified ones: ``refuse`` raises, ``mark`` answers and marks the result."""

    guard_token: str | None = Field(default=None, repr=False)
    """Stands for a guard that was handed to ``from_guard``, within this process; not for you to set."""

    # Every option of a call that is a setting, as a field: what each of them means is said in `CallOptions` and
    # docs/options.md. They are written out so that editors know them; a test compares names and types.

    budget: Budgets | None = None
    candidates: int | None = None
    beams: int | None = None
    block_tokens: int | None = None
    max_tokens: int | None = None
    tries: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    retry_penalty: float | None = None
    stratified: bool | None = None
    selection: Selection | None = None
    adaptive: Adaptive | None = None
    narrow_candidates: int | None = None
    schedule: Annotated[tuple[int, ...] | None, BeforeValidator(as_list)] = None
    max_lag: int | None = None
    seed: int | None = None
    stop: Annotated[list[str] | None, BeforeValidator(as_list)] = None
    stop_token_ids: Annotated[list[int] | None, BeforeValidator(as_list)] = None
    timeout: float | None = None
    judge_timeout: float | None = None
    on_block: OnBlock | None = None
    refusal: str | None = None
    last_assistant: LastAssistant | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    tool_threshold: float | None = None
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    choices: Sequence[str] | None = None
    grammar: str | None = None

    _handle: GuardHandle = PrivateAttr(default_factory=GuardHandle)

    @model_validator(mode="before")
    @classmethod
    def _by_our_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = _named(values)
        if values.get("model") is None:
            raise ValueError(
                f"no model is named; give model=, which is a preset ({', '.join(presets.names())}), a hub id, a local "
                "folder or a GGUF file, or wrap a guard that is loaded with from_guard(guard)"
            )
        if isinstance(values.get("timeout"), list | tuple):
            raise ValueError(
                f"timeout is {values['timeout']!r}; give one number of seconds for the whole answer, as nothing is "
                "connected to here"
            )
        return values

    @model_validator(mode="after")
    def _has_its_guard(self) -> Self:
        """Frameworks make the class anew from its fields; a guard that was handed in must not get lost by that."""
        if self.guard_token is not None:
            self._handle.guard = wrapped(self.guard_token)
            self._check_wrapped(self._handle.guard)
        return self

    @classmethod
    def from_guard(cls, guard: InferenceGuard, **fields: Any) -> Self:
        """Wraps a guard that exists; its options are the defaults, and its weights are shared.

        Raises:
            MismatchError: A field names models, which the guard has already.
        """
        token = identity.token(guard)
        _wrapped[token] = guard
        return cls(**{"model": guard.policy_id, **fields, "guard_token": token})

    @property
    def guard(self) -> InferenceGuard:
        """The guard; loaded at the first use, and shared by all that name the same models."""
        if self.guard_token is not None:
            guard = self._handle.guard = wrapped(self.guard_token)
            self._check_wrapped(guard)  # copies with an update are not validated
            return guard
        if not self._handle.holds(self):
            if self._handle.guard is not None:  # the fields were changed, and copies may hold the same handle
                self._handle = GuardHandle()
            return self._handle.load(self)
        return self._handle.guard  # type: ignore[return-value]

    @property
    def is_loaded(self) -> bool:
        """Whether using the guard loads nothing any more."""
        return self.wraps_guard or self._handle.holds(self)

    @property
    def wraps_guard(self) -> bool:
        """Whether this was made with ``from_guard``, so that the fields do not name its models."""
        return self.guard_token is not None

    @property
    def named(self) -> dict[str, Any]:
        """The fields that name models."""
        return {name: getattr(self, name) for name in LOADING}

    def _check_wrapped(self, guard: InferenceGuard) -> None:
        usual = {name: GuardFields.model_fields[name].get_default(call_default_factory=True) for name in LOADING[1:]}
        asked = [
            name for name, value in self.named.items() if not _same(value, {**usual, "model": guard.policy_id}[name])
        ]
        if asked:
            raise MismatchError(
                f"{asked[0]} was given to an object that wraps a guard, whose models are what they are; make a guard "
                "with InferenceGuard.from_pretrained and wrap that, or name the models as fields without from_guard"
            )

    # What travels with a copy or a pickle: names and settings. Never weights, and never a field less.

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares loaded judges, as it shares the guard."""
        memo = {} if memo is None else memo
        memo.update({id(part): part for part in (getattr(self, name) for name in JUDGING) if part is not None})
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """See pickle.

        Raises:
            TypeError: A judge is neither a name nor a function of a module.
        """
        for name in JUDGING:
            given = getattr(self, name)
            for part in given if isinstance(given, list | tuple) else [given]:
                check_has_name(name, part)
        return super().__getstate__()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """See pickle; a framework that calls ``__init__`` here would lose which guard was wrapped."""
        super().__setstate__(state)
        self._handle = (state.get("__pydantic_private__") or {}).get("_handle") or GuardHandle()

    def load_guard(self) -> InferenceGuard:
        """Loads the guard that the fields name, once their settings have been seen to be allowed.

        Settings come with every call, and are held to the certificate then.
        """
        from ig_plugins.guard.checks import check_options

        named, settings = self.named, self.call_options()
        path, outside = named.pop("certificate"), named.pop("outside_certificate")
        check_options(
            self.model,
            {name: value for name, value in settings.items() if name != "budget"},
            cost_model=self.cost_model,
            budget=settings.get("budget"),
            prompt_format=self.prompt_format,
            dtype=self.dtype,
        )
        if self.critic not in (None, False):  # it is bound to a budget, and held to it where it is loaded
            named["budget"] = settings.get("budget")
        guard = InferenceGuard.from_pretrained(**named)
        return guard if path is None else guard.with_certificate(path, outside=outside, settings=False)

    def call_options(self, **kwargs: Any) -> dict[str, Any]:
        """The overrides of one guard call: the fields that are set, then the call's own arguments.

        Raises:
            TypeError: An argument that is no option, with the names that are.
            ConfigurationError: A value that is not allowed.
        """
        mine = {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}
        options = {**mine, **_named(kwargs)}
        check_names(options)
        return options


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by our names: those of transformers and of hosted models, and old ones, are taken as well."""
    taken = {old: new for old, new in _ALIASES.items() if old in options and new not in options}
    return renamed({taken.get(name, name): value for name, value in options.items()})


def _same(one: Any, other: Any) -> bool:
    """Whether two fields name the same: texts and numbers by value, judges and other objects only if they are one."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, str | int | float) and one == other
