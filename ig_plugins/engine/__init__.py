"""A Hugging Face model that follows a token tree, and sampling on it."""

from ig_plugins.engine.decoding.decode import Block, sample_block
from ig_plugins.engine.decoding.masks import Matcher
from ig_plugins.engine.decoding.sampler import NonFiniteLogitsError, Sampler
from ig_plugins.engine.model import TreeModel
from ig_plugins.engine.sampling import SamplingSession
from ig_plugins.engine.session import TreeSession
from ig_plugins.engine.speedups.ngram_draft import NgramDrafts

__all__ = [
    "Block",
    "Matcher",
    "NgramDrafts",
    "NonFiniteLogitsError",
    "Sampler",
    "SamplingSession",
    "TreeModel",
    "TreeSession",
    "sample_block",
]
