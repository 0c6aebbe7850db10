"""A Hugging Face model that follows a token tree, and sampling on it."""

from ig_plugins.engine.drafts import Drafts
from ig_plugins.engine.model import TreeModel
from ig_plugins.engine.sampler import NonFiniteLogitsError, Sampler
from ig_plugins.engine.sampling import Block, sample_block
from ig_plugins.engine.session import TreeSession

__all__ = ["Block", "Drafts", "NonFiniteLogitsError", "Sampler", "TreeModel", "TreeSession", "sample_block"]
