"""What a part *is*, told apart from what it is called: see `plain`; of models and tokenizers: see `weights`."""

from critic_models.identity.plain import brief, describe, digest, label, owned, token, unknown_parts
from critic_models.identity.weights import forget

__all__ = ["brief", "describe", "digest", "forget", "label", "owned", "token", "unknown_parts"]
