"""What a preset's TOML file says: which checkpoints, in which format, under which budget and licence."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from critic_models.safety import SafetyBudget
from ig_plugins.search.config import SearchConfig


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Installed(_Table):
    """A checkpoint's file inside another Python package, which is looked for and never imported.

    Attributes:
        requirement: What to install, without its dependencies.
        file: The package's folder and the path in it.
    """

    requirement: str
    file: str


class Checkpoint(_Table):
    """One checkpoint.

    Attributes:
        source: A hub id, or ``bundled:NAME`` for a model inside this package.
        revision: Branch, tag or commit on the hub.
        licence: Of the weights.
        installed: Where the same model may lie on this machine already; taken before the hub's.
    """

    source: str
    revision: str | None = None
    licence: str
    installed: Installed | None = None


class CostCheckpoint(Checkpoint):
    """A cost model and its budget; ``own`` is the one that the cost model's checkpoint states."""

    budget: SafetyBudget | Literal["own"] = SafetyBudget()


class Preset(_Table):
    """What a name such as ``beaver-7b-v3`` stands for.

    Attributes:
        name: As users write it.
        description: One line.
        prompt_format: How conversations become tokens.
        policy: The guarded model.
        cost: Cost model and budget.
        more_costs: Further cost models, each with its budget; an answer has to pass all of them.
        reward: Reward model; None for answers that are fair draws among the safe ones.
        critic: The policy's critic, where one is published.
        search: The search's settings.
        tool_threshold: From when on a question asks for a tool; None leaves that to the model's draws.
        variants: Other reward models by name: ``beaver-7b-v3:paper`` is the preset with that reward.
    """

    name: str
    description: str
    prompt_format: str = "auto"
    policy: Checkpoint
    cost: CostCheckpoint
    more_costs: tuple[CostCheckpoint, ...] = ()
    reward: Checkpoint | None = None
    critic: Checkpoint | None = None
    search: SearchConfig = SearchConfig()
    tool_threshold: float | None = None
    variants: dict[str, Checkpoint] = Field(default_factory=dict)

    @property
    def costs(self) -> tuple[CostCheckpoint, ...]:
        """All cost models."""
        return (self.cost, *self.more_costs)
