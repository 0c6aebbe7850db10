"""The lanes of a block while they grow."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from ig_plugins.engine.session import TreeSession


class LaneBuffer:
    """The lanes of a block while they grow; see `Block`. ``active`` are those that go on, bool, shape (B, L)."""

    def __init__(
        self,
        session: TreeSession,
        uniforms: Tensor,
        limits: Tensor,
        stop_ids: Collection[int],
        on_step: Callable[[], None] | None,
    ) -> None:
        shape = uniforms.shape
        self.uniforms, self.limits, self.stop_ids = uniforms, limits.expand(shape[:2]), frozenset(stop_ids)
        self.stops = torch.tensor(sorted(stop_ids), dtype=torch.long)
        self.on_step = on_step or (lambda: None)
        self.tokens = torch.full(shape, -1)
        self.lengths = torch.zeros(shape[:2], dtype=torch.long)
        self.finished = torch.zeros(shape[:2], dtype=torch.bool)
        self.total = torch.zeros_like(session.lane_hidden, dtype=torch.float32)
        self.states, self.keeps_states = session.lane_hidden.unsqueeze(2)[:, :, :0], False
        self.active = self.limits > 0

    def keep_states(self, session: TreeSession) -> None:
        """Make room for the states of all tokens."""
        self.states = session.lane_hidden.new_zeros(*self.tokens.shape, session.lane_hidden.shape[-1])
        self.keeps_states = True

    def keep(self, states: Tensor, step: int, lanes: Tensor) -> None:
        """Keep the states (B, L, T, H) of these lanes' tokens from a step on, where states are kept; lanes (B, L)."""
        if self.keeps_states:
            steps = slice(step, step + states.shape[2])
            chosen = lanes.to(states.device)[:, :, None, None]
            self.states[:, :, steps] = torch.where(chosen, states, self.states[:, :, steps])
