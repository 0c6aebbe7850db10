"""Responses of the policy itself, with everything a critic learns from."""

from ig_plugins.rollouts.collect import RolloutConfig, collect
from ig_plugins.rollouts.sample import Rollout, sample_rollouts
from ig_plugins.rollouts.store import RolloutStore
from ig_plugins.rollouts.train import train_critic

__all__ = ["Rollout", "RolloutConfig", "RolloutStore", "collect", "sample_rollouts", "train_critic"]
