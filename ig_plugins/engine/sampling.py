"""A session that samples its blocks in this process: the tree session, and the draws on its logits."""

from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from ig_plugins.engine.decoding.decode import Block, sample_block
from ig_plugins.engine.decoding.draws import Histories
from ig_plugins.engine.decoding.masks import Matchers
from ig_plugins.engine.decoding.sampler import Sampler
from ig_plugins.engine.session import TreeSession


class SamplingSession(TreeSession):
    """A tree session that draws its lanes' tokens itself; see `sample_block`."""

    def sample(
        self,
        parents: Tensor,
        *,
        samplers: Sequence[Sampler],
        uniforms: Tensor,
        max_tokens: Sequence[int] | Tensor,
        stop_ids: Collection[int],
        penalties: Sequence[Tensor | None] | None = None,
        histories: Histories | None = None,
        matchers: Matchers = (),
        on_step: Callable[[], None] | None = None,
        keep_states: bool = False,
    ) -> Block:
        """Open a block and let every lane sample until it stops or is full; arguments as in `sample_block`."""
        return sample_block(
            self,
            parents,
            samplers=samplers,
            uniforms=uniforms,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            penalties=penalties,
            histories=histories,
            matchers=matchers,
            on_step=on_step,
            keep_states=keep_states,
        )
