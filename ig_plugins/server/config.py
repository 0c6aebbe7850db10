"""What is served, said in one TOML file; environment variables override it, and options of the command line both.

    [server]
    port = 8000
    api_keys = "keys.txt"

    [limits]
    candidates = 32

    [models.alpaca]
    model = "tiny-alpaca"
    certificate = "certificate.json"
    options = { candidates = 16 }

``INFERENCEGUARD__LIMITS__CANDIDATES=16`` overrides one value, and ``INFERENCEGUARD__MODELS__ALPACA__DEVICE=cuda`` too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from critic_models.safety import SafetyBudget
from critic_models.validation import explain
from ig_plugins.call_options import offered
from ig_plugins.errors import ConfigurationError, did_you_mean
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.certificate import Certificate
from ig_plugins.guard.checks import check_options
from ig_plugins.guard.options import configuration_errors
from ig_plugins.guard.promise import Outside
from ig_plugins.server.limits import Limits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "INFERENCEGUARD__"
SOURCES = ("model", "cost_model", "reward_model", "critic")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ServerTable(_Table):
    """Where and how it is served.

    Attributes:
        host: Loopback unless you say otherwise.
        port: 0 takes any that is free.
        api_keys: A file with one key a line.
        access_log: A JSON line a request on standard error.
        cors: Origins of web pages that may ask, such as ``https://chat.example.org``; ``*`` for all.
        metrics: ``/metrics`` for Prometheus; by default where prometheus-client is installed.
        telemetry: OpenTelemetry spans, sent by whatever the process has set up.
        completions: ``/v1/completions``, which takes texts that no prompt format has rendered.
        ui: ``/ui`` for operators, which shows text that did not pass (docs/trace.md).
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_keys: Path | None = None
    access_log: bool = False
    cors: tuple[str, ...] = ()
    metrics: bool | None = None
    telemetry: bool = False
    completions: bool = True
    ui: bool = False


class ModelTable(_Table):
    """One guard, as `InferenceGuard.from_pretrained` takes it.

    Attributes:
        aliases: Other names by which clients may ask for it.
        options: Any option of a call, as the guard's default.
    """

    model: str
    cost_model: str | list[str] | None = None
    reward_model: str | None = None
    critic: str | bool | None = None
    prompt_format: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    load_options: dict[str, Any] = {}
    tokenizer: str | None = None
    certificate: Path | None = None
    outside_certificate: Outside = "refuse"
    aliases: tuple[str, ...] = ()
    options: dict[str, Any] = {}

    @field_validator("critic")
    @classmethod
    def _no_yes(cls, critic: str | bool | None) -> str | bool | None:
        if critic is True:
            raise ValueError("give a folder, a hub id, or false for none; left out, it is the preset's")
        return critic

    @field_validator("options")
    @classmethod
    def _known(cls, options: dict[str, Any]) -> dict[str, Any]:
        allowed = offered("fields")
        for name in options:
            if name not in allowed:
                raise ValueError(f"{name!r} is no option.{did_you_mean(name, allowed)}")
        return options

    def check(self) -> None:
        """Refuses what can be refused before weights are read.

        Raises:
            ConfigurationError: A value that is not allowed.
            MismatchError: No certificate there.
        """
        options = self._options()
        if self.certificate is not None:
            Certificate.load(self.certificate)
        own = {name: getattr(self, name) for name in ("cost_model", "prompt_format", "dtype")}
        check_options(self.model, options, budget=options.pop("budget", None), **own)

    def load(self) -> InferenceGuard:
        """The guard.

        Raises:
            InferenceGuardError: See `InferenceGuard.from_pretrained`.
        """
        options = self._options()
        budget = options.pop("budget", None)
        parts = {
            name: getattr(self, name)
            for name in (*SOURCES, "prompt_format", "revision", "device", "dtype", "tokenizer")
        }
        guard = InferenceGuard.from_pretrained(**parts, load_options=self.load_options, **options)
        if budget is not None:  # afterwards, as a calibration does: the parts are then the certified ones
            guard = guard.with_options(budget=budget)
        if self.certificate is None:
            return guard
        return guard.with_certificate(str(self.certificate), outside=self.outside_certificate)

    def _options(self) -> dict[str, Any]:
        options = dict(self.options)
        with configuration_errors():
            if (budget := options.get("budget")) is not None:
                each = [_budget(part) for part in (budget if isinstance(budget, list) else [budget])]
                options["budget"] = each if isinstance(budget, list) else each[0]
        return options


class ServeConfig(_Table):
    """Everything that ``inferenceguard serve`` knows.

    Attributes:
        models: By the name that clients say; the first is asked where they say none.
    """

    server: ServerTable = ServerTable()
    limits: Limits = Limits()
    models: dict[str, ModelTable] = Field(min_length=1)

    @field_validator("models")
    @classmethod
    def _told_apart(cls, models: dict[str, ModelTable]) -> dict[str, ModelTable]:
        names = [*models, *(alias for table in models.values() for alias in table.aliases)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]!r} names two models, or one twice; give each name and alias once")
        return models

    @property
    def aliases(self) -> dict[str, str]:
        """Every further name of a model."""
        return {alias: name for name, table in self.models.items() for alias in table.aliases}

    @property
    def keys(self) -> list[str]:
        """The API keys.

        Raises:
            ConfigurationError: The file cannot be read, or holds none.
        """
        path = self.server.api_keys
        if path is None:
            return []
        try:
            keys = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"api_keys '{path}' cannot be read as text; give a file with one key a line"
            ) from error
        if not keys:
            raise ConfigurationError(f"api_keys '{path}' holds no key; write one a line, or leave it out")
        return keys


def read(
    path: Path | None, *, environment: Mapping[str, str] | None = None, said: Mapping[str, Any] | None = None
) -> ServeConfig:
    """The configuration.

    Args:
        path: The TOML file, if there is one. Paths in it are looked for beside it first.
        environment: Variables; those that start with `PREFIX` count.
        said: The command line's: table to name to value.

    Raises:
        ConfigurationError: Something is not known or not allowed; the message says where and what is meant perhaps.
    """
    told, said = _file(path) if path else {}, said or {}
    places = _override(told, environment or {})
    for table, values in said.items():
        told[table] = {**told.get(table, {}), **values}
    try:
        return ServeConfig.model_validate(told)
    except ValidationError as error:
        fault = _fault(error)
        table, name = [*fault["loc"], "", ""][:2]
        by_variable = (each for each, place in places.items() if fault["loc"][: len(place)] == place)
        origin = "serve" if name in said.get(table, ()) else next(by_variable, path or "serve")
        raise ConfigurationError(f"{origin}: {_explained(error, fault)}") from None


def _file(path: Path) -> dict[str, Any]:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(f"--config '{path}' cannot be read: {why}; give a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}; mend it there") from error
    _find_beside(path.parent, told.get("server"), ("api_keys",))
    models = told.get("models")
    for table in models.values() if isinstance(models, dict) else ():
        _find_beside(path.parent, table, (*SOURCES, "certificate"))
    return told


def _find_beside(folder: Path, table: Any, names: Iterable[str]) -> None:
    """Makes names of files that lie beside the configuration lead there, from wherever it is read."""
    for name in names if isinstance(table, dict) else ():
        value = table.get(name)
        if isinstance(value, str):
            table[name] = _beside(folder, value)
        elif isinstance(value, list):
            table[name] = [_beside(folder, each) if isinstance(each, str) else each for each in value]


def _beside(folder: Path, value: str) -> str:
    file, colon, function = value.partition(":")
    if file and (folder / file).exists() and (not colon or file.endswith(".py")):
        return f"{folder / file}{colon}{function}"
    return value


def _override(told: dict[str, Any], environment: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Puts the variables' values in their places.

    Returns:
        The place of each variable.

    Raises:
        ConfigurationError: A variable of ours that leads nowhere.
    """
    places: dict[str, tuple[str, ...]] = {}
    for variable, value in sorted(environment.items()):
        if variable.startswith(PREFIX):
            *way, last = variable.removeprefix(PREFIX).split("__")
            table = told
            place: list[str] = []
            for step in way:
                place.append(_named(step, table, variable))
                table = table.setdefault(place[-1], {})
                if not isinstance(table, dict):
                    raise ConfigurationError(f"{variable}: {step} is no table")
            table[last.lower()] = _value(value)
            places[variable] = (*place, last.lower())
    return places


def _named(step: str, table: Mapping[str, Any], variable: str) -> str:
    """A table's name as it is written: variables know neither small letters nor dashes."""
    known = {re.sub(r"\W", "_", name).upper(): name for name in table}
    return known.get(step.upper(), step.lower())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fault(error: ValidationError) -> Any:
    """The fault to tell of: a name that is not known before all, since what is missing may be what was meant."""
    faults = error.errors(include_url=False)
    return next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])


def _explained(error: ValidationError, fault: Any) -> str:
    *way, last = fault["loc"] or ("",)
    if fault["type"] == "extra_forbidden":
        allowed = list(_table(way).model_fields)
        near = did_you_mean(str(last), allowed) or f" There are {', '.join(allowed)}."
        return f"{'.'.join(map(str, fault['loc']))} is not known.{near}"
    if fault["type"] == "value_error" and fault["loc"] == ("models",):
        return f"models: {fault['ctx']['error']}"
    if fault["type"] == "missing" and fault["loc"] == ("models",):
        return "no model is named; write a table [models.NAME] with model = ..."
    return explain(error)


def _table(way: list[Any]) -> type[BaseModel]:
    tables: dict[str, type[BaseModel]] = {"server": ServerTable, "limits": Limits, "models": ModelTable}
    return tables.get(str(way[0]), ServeConfig) if way else ServeConfig


def _budget(value: Any) -> Any:
    return SafetyBudget(**value) if isinstance(value, dict) else value
