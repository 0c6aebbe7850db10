"""How reward and cost make one score (paper, section 5): what most baselines differ by."""

from collections.abc import Sequence

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.methods.blocks import Rule
from ig_plugins.research.methods.candidate_scorer import Candidate
from ig_plugins.research.methods.context import Context

RULES = ("reward", "lagrangian", "augmented")


def rule(name: str, context: Context) -> Rule:
    """A rule by its name.

    ``reward``: r. ``lagrangian``: r - λ·cost, which bounds the cost only on average. ``augmented``: r where the
    safety state is safe, -n elsewhere. ``cost``: -cost.

    Raises:
        ConfigurationError: The rule ranks by reward, and there is no reward model.
    """
    if name != "cost" and context.guard.components.reward is None:
        raise ConfigurationError(f"the rule '{name}' ranks by reward; give the guard a reward model")

    def score(candidate: Candidate) -> float:
        reward = candidate.reward or 0.0
        if name == "cost":
            return -candidate.spent
        if name == "lagrangian":
            return reward - context.multiplier * candidate.spent
        if name == "augmented" and not candidate.safe:
            return -context.penalty
        return reward

    def scores(candidates: Sequence[Candidate]) -> list[float]:
        return [score(candidate) for candidate in candidates]

    return scores
