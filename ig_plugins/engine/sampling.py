"""A session that samples its blocks in this process: the tree session, and the draws on its logits."""

from ig_plugins.engine.decoding.decode import sample_block
from ig_plugins.engine.session import TreeSession


class SamplingSession(TreeSession):
    """A tree session that draws its lanes' tokens itself."""

    sample = sample_block
