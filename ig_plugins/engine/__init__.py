"""A Hugging Face model that follows a token tree, and sampling on it."""

from ig_plugins.engine.model import TreeModel
from ig_plugins.engine.session import TreeSession

__all__ = ["TreeModel", "TreeSession"]
