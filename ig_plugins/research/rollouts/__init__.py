"""Responses of the policy itself, with everything a critic learns from."""

from ig_plugins.research.rollouts.collect import Part, RolloutConfig, collect, collect_part
from ig_plugins.research.rollouts.sample import Rollout, sample_rollouts
from ig_plugins.research.rollouts.store import RolloutStore
from ig_plugins.research.rollouts.train import collect_rollouts, measure_critic, train_critic

__all__ = [
    "Part",
    "Rollout",
    "RolloutConfig",
    "RolloutStore",
    "collect",
    "collect_part",
    "collect_rollouts",
    "measure_critic",
    "sample_rollouts",
    "train_critic",
]
