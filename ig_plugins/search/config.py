"""What can be set about the search."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_RENAMED = {"calm_candidates": "narrow_candidates"}  # old names, which go with 0.3


def renamed(settings: Mapping[str, Any], *, stacklevel: int = 4) -> dict[str, Any]:
    """Settings by their present names; an old name is taken with a warning."""
    for old, new in _RENAMED.items():
        if old in settings:
            warnings.warn(
                f"the option {old} is now {new}; the old name goes with 0.3", DeprecationWarning, stacklevel=stacklevel
            )
    return {_RENAMED.get(name, name) if _RENAMED.get(name) not in settings else name: v for name, v in settings.items()}


class SearchConfig(BaseModel):
    """The search's settings. `CallOptions` explains each of them (docs/options.md).

    ``max_new_tokens`` is the call's ``max_tokens``. ``seed``: None draws one, and the result says which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int = Field(default=16, ge=1, le=1024)
    beams: int = Field(default=4, ge=1)
    block_tokens: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    tries: int = Field(default=2, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    retry_penalty: float = Field(default=2.0, ge=0.0, allow_inf_nan=False)
    stratified: bool = True
    selection: Literal["reward", "hedged"] = "reward"
    adaptive: Literal["off", "on", "auto"] = "auto"
    narrow_candidates: int = Field(default=6, ge=1)
    schedule: tuple[int, ...] = ()
    max_lag: int = Field(default=4, ge=0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, values: Any) -> Any:
        return renamed(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _beams_fit(self) -> "SearchConfig":
        if self.beams > self.candidates:
            raise ValueError(
                f"beams is {self.beams} and candidates {self.candidates}; "
                f"keep at most as many beams as there are candidates, for example beams={max(1, self.candidates // 4)}"
            )
        if any(not self.beams <= lanes <= 1024 for lanes in self.schedule):
            raise ValueError(
                f"schedule is {self.schedule}; every block needs at least as many candidates as beams "
                f"({self.beams}), and at most 1024"
            )
        return self

    def lanes(self, block: int) -> int:
        """Candidates of a block when it is searched in full."""
        return self.schedule[min(block, len(self.schedule) - 1)] if self.schedule else self.candidates

    @property
    def widest(self) -> int:
        """The most lanes that any block may have."""
        narrow = [] if self.adaptive == "off" else [self.narrow_candidates]
        return max([self.candidates, *self.schedule, *narrow])

    @property
    def calm_candidates(self) -> int:
        """The old name of ``narrow_candidates``; it goes with 0.3."""
        renamed({"calm_candidates": None}, stacklevel=3)
        return self.narrow_candidates
