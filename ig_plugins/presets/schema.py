"""What a preset's TOML file says: which checkpoints, in which format, under which budget and licence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ig_plugins.safety import SafetyBudget
from ig_plugins.search.config import SearchConfig


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Checkpoint(_Table):
    """One checkpoint.

    Attributes:
        source: A hub id, or ``bundled:NAME`` for a model inside this package.
        revision: Branch, tag or commit on the hub.
        licence: Of the weights.
    """

    source: str
    revision: str | None = None
    licence: str


class CostCheckpoint(Checkpoint):
    """A cost model and its budget."""

    budget: SafetyBudget = SafetyBudget()


class Preset(_Table):
    """What a name such as ``beaver-7b-v3`` stands for.

    Attributes:
        name: As users write it.
        description: One line.
        prompt_format: How conversations become tokens.
        policy: The guarded model.
        cost: Cost model and budget.
        reward: Reward model.
        critic: The policy's critic, where one is published.
        search: The search's settings.
        variants: Other reward models by name: ``beaver-7b-v3:paper`` is the preset with that reward.
    """

    name: str
    description: str
    prompt_format: str = "auto"
    policy: Checkpoint
    cost: CostCheckpoint
    reward: Checkpoint
    critic: Checkpoint | None = None
    search: SearchConfig = SearchConfig()
    variants: dict[str, Checkpoint] = Field(default_factory=dict)
