"""Safe-RLHF reward and cost models."""

from critic_models.scores.model import ScoreModel
from critic_models.scores.settings import ScoreSettings

__all__ = ["ScoreModel", "ScoreSettings"]
