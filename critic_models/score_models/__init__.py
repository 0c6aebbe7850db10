"""Safe-RLHF reward and cost models."""

from critic_models.score_models.model import ScoreModel
from critic_models.score_models.settings import ScoreSettings

__all__ = ["ScoreModel", "ScoreSettings"]
