"""The latent critic and its checkpoint."""

from critic_models.latent.config import (
    CriticBinding,
    CriticConfig,
    CriticCost,
    tokenizer_hash,
)
from critic_models.latent.critic import LatentCritic

__all__ = ["CriticBinding", "CriticConfig", "CriticCost", "LatentCritic", "tokenizer_hash"]
