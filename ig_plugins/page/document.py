"""What a page shows, as JSON that people can keep: a result with its trace, and the unguarded answer beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from critic_models.validation import explain
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import GuardResult
from ig_plugins.search.trace import CostLine

FORMAT: Literal[1] = 1


class Unguarded(BaseModel):
    """One plain sample of the policy, and what the guard's judges say of it afterwards.

    Attributes:
        text: What the policy said.
        tokens: How many tokens that is.
        over_budget: The guard would not have let it leave.
        costs: Per cost model what it cost.
        lines: Per cost model z along it.
        reward: The reward model's score, if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    tokens: int
    over_budget: bool
    costs: tuple[float | None, ...]
    lines: tuple[CostLine, ...]
    reward: float | None


class Document(BaseModel):
    """What a page shows.

    Attributes:
        format: Of this file.
        model: What the policy was loaded from; None where nobody knows.
        result: With its trace.
        unguarded: For comparison.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    model: str | None = None
    result: GuardResult
    unguarded: Unguarded | None = None


def load(path: Path) -> Document:
    """A document, or a result alone, from a file.

    Raises:
        ConfigurationError: It is neither, or the result has no trace.
    """
    from pydantic_core import from_json

    try:
        found: Any = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise ConfigurationError(f"'{path}' cannot be read: {reason}; give a file that holds a result") from error
    whole = isinstance(found, dict) and "result" in found
    try:
        document = Document.model_validate_json(path.read_bytes()) if whole else _of_result(path)
    except ValidationError as error:
        raise ConfigurationError(f"'{path}' holds no result of a guard: {explain(error, values=False)[:300]}") from None
    if document.result.trace is None:
        raise ConfigurationError(f"'{path}' holds a result without a trace; ask with trace=True, and save that")
    return document


def _of_result(path: Path) -> Document:
    return Document(result=GuardResult.model_validate_json(path.read_bytes()))
