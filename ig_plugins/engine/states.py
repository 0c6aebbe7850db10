"""States of beams and lanes: taken, replaced and put together without copies that nobody reads."""

import torch
from torch import Tensor


class LaneLogits:
    """Logits of an open block's lanes, kept as the forwards gave them: put together only if somebody asks for all.

    A step's logits are mostly read once, by the draws of the same lanes; with a large vocabulary a copy costs more than
    the draw.

    Args:
        beams: Logits of the beams, shape (B, K, V).
        parents: Each lane's beam, shape (B, L), -1 for an absent lane.
    """

    def __init__(self, beams: Tensor, parents: Tensor) -> None:
        self._beams, self._parents = beams, parents
        self._all: Tensor | None = None
        self._newest: tuple[Tensor, Tensor, Tensor] | None = None

    def update(self, rows: Tensor, lanes: Tensor, new: Tensor) -> None:
        """Lanes, rows and places of shape (n,), have these logits now, shape (n, V)."""
        if self._newest is not None and (self._newest[0] is not rows or self._newest[1] is not lanes):
            self.all()
        self._newest = rows, lanes, new

    @torch.inference_mode()
    def all(self) -> Tensor:
        """Shape (B, L, V); zeros for absent lanes."""
        if self._all is None:
            self._all = chosen(self._beams, self._parents)
        if self._newest is not None:
            rows, lanes, new = self._newest
            self._all, self._newest = updated(self._all, (rows, lanes), new), None
        return self._all

    @torch.inference_mode()
    def at(self, rows: Tensor, lanes: Tensor) -> Tensor:
        """Logits (n, V) of some lanes, in ascending order."""
        if self._newest is not None and len(self._newest[0]) == len(rows):
            mine, places, new = self._newest
            if torch.equal(mine, rows) and torch.equal(places, lanes):
                return new
        return _rows(self.all(), rows, lanes)


def chosen(states: Tensor, index: Tensor) -> Tensor:
    """Rows' states (B, n, X) at indices (B, m), zeros where an index is -1."""
    index = index.to(states.device)
    rows = torch.arange(len(index), device=states.device).unsqueeze(1)
    return states[rows, index.clamp(min=0)].masked_fill((index < 0).unsqueeze(2), 0)


def updated(states: Tensor, at: tuple[Tensor, Tensor], new: Tensor) -> Tensor:
    """States (B, L, X) with the named lanes' replaced by ``new`` (n, X); no copy where those are all lanes."""
    if len(new) == states.shape[0] * states.shape[1]:
        return new.view(states.shape)
    if states.shape[0] == 1 and int(at[1][-1]) == len(new) - 1:
        states[0, : len(new)] = new
    else:
        states[at] = new
    return states


def appended(states: Tensor, new: Tensor) -> Tensor:
    """States (B, K, X) with rows added whose only beam has the states ``new`` (b, X)."""
    rows = states.new_zeros(len(new), *states.shape[1:])
    rows[:, 0] = new
    return torch.cat([states, rows])


def _rows(states: Tensor, rows: Tensor, lanes: Tensor) -> Tensor:
    """States (R, V) of some lanes of (B, L, V), not copied if they are all there is or a single row's first."""
    if len(rows) == states.shape[0] * states.shape[1]:
        return states.flatten(0, 1)
    if states.shape[0] == 1 and int(lanes[-1]) == len(lanes) - 1:
        return states[0, : len(lanes)]
    return states[rows.to(states.device), lanes.to(states.device)]
