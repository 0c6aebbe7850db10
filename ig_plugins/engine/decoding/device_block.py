"""A block on a device that runs ahead: nothing is looked at before the block is full, so the device is waited for once.

Every lane is fed to the end of the block, whether it has ended or not: beside the weights that a step reads, a row more
costs an accelerator next to nothing, and a wait costs it the launches that it could have had meanwhile. What a lane
says behind its end is taken back. So every step is the same work, and can be recorded (see `cuda_graphs`).
"""

import torch
from torch import Tensor

from ig_plugins.engine.decoding.draws import Draws
from ig_plugins.engine.decoding.lane_buffer import LaneBuffer
from ig_plugins.engine.decoding.sampler import NonFiniteLogitsError
from ig_plugins.engine.session import TreeSession
from ig_plugins.engine.speedups.cuda_graphs import WORTH


def can_decode_on_device(session: TreeSession, lanes: LaneBuffer, draws: Draws) -> bool:
    """Whether a block can: no draw looks at anything but logits, and all lanes that grow have the same room."""
    limits = lanes.limits[lanes.active]
    return session.runs_device_blocks and draws.steady and len(limits) > 0 and bool((limits == limits[0]).all())


@torch.inference_mode()
def decode_on_device(session: TreeSession, lanes: LaneBuffer, draws: Draws) -> None:
    """Grow the lanes to the end of the block.

    Raises:
        NonFiniteLogitsError: The model gave logits that cannot be sampled from; found at the end.
    """
    rows, places = lanes.active.nonzero().unbind(dim=1)
    steps, recorder = int(lanes.limits[rows[0], places[0]]), session.model.recorder
    block = _Block(session, lanes, draws, (rows, places), steps)
    step, left = block.step, steps
    if recorder is not None and steps >= WORTH:
        lanes.on_step()
        step, left = recorder.recorded(block.step, block.states), steps - 2
    for _ in range(left):
        lanes.on_step()
        step()
    if not bool(block.sound):  # the only wait
        raise NonFiniteLogitsError
    sampled = block.sampled.cpu()
    ended = (sampled.unsqueeze(2) == lanes.stops).any(dim=2)
    behind = ended.long().cumsum(dim=1) - ended.long() > 0  # tokens after a lane's end
    lanes.tokens[rows, places, :steps] = sampled.masked_fill(behind, -1)
    lanes.lengths[rows, places] = steps - behind.sum(dim=1)
    lanes.finished[rows, places] = ended.any(dim=1)
    device = block.total.device
    at = _moved(rows, device), _moved(places, device)
    lanes.total[at] = block.total
    if lanes.keeps_states:
        lanes.states[(*at, slice(steps))] = block.kept.masked_fill(_moved(behind, device).unsqueeze(2), 0)
    session.cut(lanes.lengths, block.ends, block.last)


class _Block:
    """M growing lanes, given by row and place, of a block of T tokens, on the device; steps change these in place.

    Attributes:
        taken: Steps so far, shape (1,).
        logits: To draw the next tokens from, shape (M, V).
        sampled: The tokens, shape (M, T).
        going: Whether a lane has not ended, bool, shape (M, 1).
        ends: The model's states where the lanes stand or have ended, shape (M, H).
        last: The logits there, shape (M, V).
        total: The sum of their states, float32, shape (M, H).
        kept: Their states, also behind their ends, shape (M, T, H); (M, 0, H) unless they are kept.
        sound: Whether all masses were finite, bool, shape ().
    """

    def __init__(
        self, session: TreeSession, lanes: LaneBuffer, draws: Draws, at: tuple[Tensor, Tensor], steps: int
    ) -> None:
        (rows, places), states = at, session.lane_hidden
        device, M = states.device, len(rows)
        self._session, self._draw = session, draws.plainly(rows)
        self._uniforms, self._stops = _moved(lanes.uniforms[rows, places, :steps], device), _moved(lanes.stops, device)
        self.taken = torch.zeros(1, dtype=torch.long, device=device)
        self.logits = session.logits_at(rows, places).clone()
        self.last = torch.empty_like(self.logits)
        self.sound = self.logits.new_ones((), dtype=torch.bool)
        self.sampled = torch.zeros(M, steps, dtype=torch.long, device=device)
        self.going = torch.ones(M, 1, dtype=torch.bool, device=device)
        self.ends = states.new_empty(M, states.shape[2])
        self.total = torch.zeros_like(self.ends, dtype=torch.float32)
        self._keeps = lanes.keeps_states
        self.kept = states.new_zeros(M, steps if self._keeps else 0, states.shape[2])
        session.prepare(lanes.active, self.taken, steps)

    @property
    def states(self) -> list[Tensor]:
        """All that steps change."""
        changed = [self.taken, self.logits, self.last, self.sound, self.sampled, self.going, self.ends, self.total]
        return [*changed, self.kept] if self._keeps else changed

    def step(self) -> None:
        """Draw a token for every lane and feed it."""
        unseen: list[Tensor] = []
        tokens = self._draw(self.logits, self._uniforms.index_select(1, self.taken).squeeze(1), unseen)
        self.sampled.index_copy_(1, self.taken, tokens.unsqueeze(1))
        states, logits = self._session.advance(tokens)
        self.ends.copy_(torch.where(self.going, states, self.ends))
        self.last.copy_(torch.where(self.going, logits, self.last))
        self.total.addcmul_(states.float(), self.going.float())
        if self._keeps:
            self.kept.index_copy_(1, self.taken, states.unsqueeze(1))
        self.going.logical_and_(~(tokens.unsqueeze(1) == self._stops).any(dim=1, keepdim=True))
        self.sound.logical_and_(torch.stack(unseen).all())
        self.logits.copy_(logits)
        self.taken.add_(1)


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, by way of pinned memory where there is such a thing."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
