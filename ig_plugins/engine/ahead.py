"""A block on a device that runs ahead: nothing is looked at before the block is full, so the device is waited for once.

Every lane is fed to the end of the block, whether it has ended or not: beside the weights that a step reads, a row more
costs an accelerator next to nothing, and a wait costs it the launches that it could have had meanwhile. What a lane
says behind its end is taken back.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ig_plugins.engine.draws import Draws
from ig_plugins.engine.sampler import NonFiniteLogitsError
from ig_plugins.engine.session import TreeSession

if TYPE_CHECKING:
    from ig_plugins.engine.sampling import Growing


def can_run_ahead(session: TreeSession, lanes: "Growing", draws: Draws) -> bool:
    """Whether a block can: no draw looks at anything but logits, and all lanes that grow have the same room."""
    limits = lanes.limits[lanes.active]
    return session.runs_ahead and draws.steady and len(limits) > 0 and bool((limits == limits[0]).all())


@torch.inference_mode()
def run_ahead(session: TreeSession, lanes: "Growing", draws: Draws) -> None:
    """Grow the lanes to the end of the block.

    Raises:
        NonFiniteLogitsError: The model gave logits that cannot be sampled from; found at the end.
    """
    rows, places = lanes.active.nonzero().unbind(dim=1)
    steps, device = int(lanes.limits[rows[0], places[0]]), session.lane_hidden.device
    uniforms = _moved(lanes.uniforms[rows, places, :steps], device)  # (M, T)
    stops, draw = _moved(lanes.stops, device), draws.plainly(rows)
    said = torch.empty(len(rows), steps, dtype=torch.long, device=device)
    going = torch.ones(len(rows), 1, dtype=torch.bool, device=device)
    logits, unseen = session.logits_at(rows, places), list[Tensor]()
    last, ends = logits, session.lane_hidden[_moved(rows, device), _moved(places, device)]
    total = torch.zeros_like(ends, dtype=torch.float32)
    session.pack(lanes.active)
    for step in range(steps):
        lanes.on_step()
        tokens = draw(logits, uniforms[:, step], unseen)
        said[:, step] = tokens
        states, logits = session.advance(tokens)
        ends, last = torch.where(going, states, ends), torch.where(going, logits, last)
        total += states.float() * going
        going = going & ~(tokens.unsqueeze(1) == stops).any(dim=1, keepdim=True)
    if not bool(torch.stack(unseen).all()):  # the only wait
        raise NonFiniteLogitsError
    said = said.cpu()
    ended = (said.unsqueeze(2) == lanes.stops).any(dim=2)
    behind = ended.long().cumsum(dim=1) - ended.long() > 0  # tokens after a lane's end
    lanes.tokens[rows, places, :steps] = said.masked_fill(behind, -1)
    lanes.lengths[rows, places] = steps - behind.sum(dim=1)
    lanes.finished[rows, places] = ended.any(dim=1)
    lanes.total[_moved(rows, device), _moved(places, device)] = total
    session.cut(lanes.lengths, ends, last)


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, by way of pinned memory where there is such a thing."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
