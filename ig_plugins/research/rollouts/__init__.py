"""Responses of the policy itself, with everything a critic learns from."""

from ig_plugins.research.rollouts.collect import RolloutConfig, collect
from ig_plugins.research.rollouts.sample import Rollout, sample_rollouts
from ig_plugins.research.rollouts.store import RolloutStore
from ig_plugins.research.rollouts.train import measure_critic, train_critic

__all__ = ["Rollout", "RolloutConfig", "RolloutStore", "collect", "measure_critic", "sample_rollouts", "train_critic"]
