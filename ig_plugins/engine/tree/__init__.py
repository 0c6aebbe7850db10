"""The token tree of a batch of prompts: bookkeeping without a model."""

from ig_plugins.engine.tree.slots import SlotMap
from ig_plugins.engine.tree.tree import ABSENT, Packing, TokenTree, TreeStateError

__all__ = ["ABSENT", "Packing", "SlotMap", "TokenTree", "TreeStateError"]
