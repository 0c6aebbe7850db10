"""The latent critic and its checkpoint."""

from critic_models.critic.config import (
    CriticBinding,
    CriticConfig,
    CriticCost,
    tokenizer_hash,
)
from critic_models.critic.critic import LatentCritic

__all__ = ["CriticBinding", "CriticConfig", "CriticCost", "LatentCritic", "tokenizer_hash"]
