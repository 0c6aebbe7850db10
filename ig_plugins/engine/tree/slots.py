"""Slots: where a tree's tokens lie when all of a row's lanes share one sequence, and which lane sees which.

A row's sequence is `[prompt | committed tokens of its beams | open block]`. Every token lies there once, whatever the
number of lanes that descend from it; a lane sees its own ancestors only. After a block the tokens that no surviving
beam descends from are compacted away.
"""

import torch
from torch import Tensor

from ig_plugins.engine.tree.tree import Packing


class SlotMap:
    """Visibility and positions of the slots of B rows.

    Every committed slot is seen by a beam of some row: what a longer prompt needed leaves with its row.

    Attributes:
        used: Slots in use, the same for all rows; a row that needs fewer has slots that nobody sees.
        prompts: Tokens of each row's prompt, shape (B,).
        prompt: Slots reserved for the prompt, the same for all rows.
        positions: Depth of the token in every slot, shape (B, S).
        beams: Whether a beam sees a slot, shape (B, K, S).
        lanes: Whether a lane of the open block sees a slot, shape (B, L, S).
    """

    def __init__(self, prompts: Tensor) -> None:
        """Lay out prompts of these lengths, shape (B,)."""
        self.prompts = prompts
        self.prompt = self.used = _longest(prompts)
        self.positions = torch.arange(self.used, device=prompts.device).expand(len(prompts), -1).clone()
        self.beams = (self.positions < prompts.unsqueeze(1)).unsqueeze(1)
        self.lanes: Tensor = self.beams[:, :0]

    @property
    def committed(self) -> int:
        """Slots in use between blocks."""
        return self.beams.shape[2]

    def fork(self, parents: Tensor) -> None:
        """Let every lane see what its beam sees; ``parents`` has shape (B, L)."""
        rows = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        self.lanes = self.beams[rows, parents.clamp(min=0)]

    def place(self, packing: Packing, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Give slots to new tokens: a row's tokens follow each other from ``used`` on.

        Args:
            packing: M new tokens of at most N a row.
            depths: Their positions in the text, shape (M,).

        Returns:
            What each new token sees, bool, shape (B, N, S), and the positions of the new tokens, shape (B, N), 0 where
            a row has fewer than N.
        """
        device, (B, _, S), N = self.lanes.device, self.lanes.shape, packing.width
        rows, lanes, steps, columns = packing.to(device)
        # Tokens that only fill up a row see its first token: attention over nothing would be NaN in half precision.
        old = torch.zeros(B, N, S, dtype=torch.bool, device=device)
        old[:, :, 0] = True
        old[rows, columns] = self.lanes[rows, lanes]
        # Among the new tokens, a lane sees its own, up to itself.
        lane_of = torch.full((B, N), -1, device=device)
        step_of = torch.zeros(B, N, dtype=torch.long, device=device)
        lane_of[rows, columns], step_of[rows, columns] = lanes, steps
        same_lane = (lane_of.unsqueeze(2) == lane_of.unsqueeze(1)) & (lane_of >= 0).unsqueeze(2)
        new = same_lane & (step_of.unsqueeze(2) >= step_of.unsqueeze(1))
        positions = self.grow(packing, depths)
        return torch.cat([old, new], dim=2), positions

    def grow(self, packing: Packing, depths: Tensor) -> Tensor:
        """Give slots to new tokens as ``place`` does, without asking what they see; their positions, shape (B, N)."""
        device, (B, L, _), N = self.lanes.device, self.lanes.shape, packing.width
        rows, lanes, _, columns = packing.to(device)
        positions = torch.zeros(B, N, dtype=torch.long, device=device)
        positions[rows, columns] = depths.to(device)
        grown = torch.zeros(B, L, N, dtype=torch.bool, device=device)
        grown[rows, lanes, columns] = True
        self.lanes = torch.cat([self.lanes, grown], dim=2)
        self.positions = torch.cat([self.positions, positions], dim=1)
        self.used += N
        return positions

    def trim(self, packing: Packing, kept: Tensor) -> None:
        """Let nobody see the tokens that were placed last, but for the first ``kept`` (B, L) of every lane."""
        rows, lanes, steps, columns = packing.to(self.lanes.device)
        wrong = steps >= kept.to(self.lanes.device)[rows, lanes]
        self.lanes[rows[wrong], lanes[wrong], self.used - packing.width + columns[wrong]] = False

    def select(self, lanes: Tensor) -> Tensor:
        """Make lanes the beams and compact: only what some beam sees stays.

        Args:
            lanes: Shape (B, K), -1 for an absent beam.

        Returns:
            Where the tokens behind the prompt come from: slot ``prompt + m`` is to hold what slot ``[b, m]`` held;
            shape (B, M). One host synchronisation, for M.
        """
        rows = torch.arange(len(lanes), device=lanes.device).unsqueeze(1)
        sees = self.lanes[rows, lanes.clamp(min=0)] & (lanes >= 0).unsqueeze(2)  # (B, K, S)
        kept = sees[:, :, self.prompt :].any(dim=1)  # (B, S - P)
        longest = int(kept.sum(dim=1).max()) if kept.numel() else 0
        # A stable sort of "is not kept" moves what is kept to the front and leaves its order alone.
        source = self.prompt + (~kept).long().argsort(dim=1, stable=True)[:, :longest]
        index = torch.cat([torch.arange(self.prompt, device=lanes.device).expand(len(lanes), -1), source], dim=1)
        self.beams = sees.gather(2, index.unsqueeze(1).expand(-1, lanes.shape[1], -1))
        self.positions = self.positions.gather(1, index)
        self.rollback()
        return source

    def append(self, tokens: int) -> None:
        """Let the only beam of the only row grow by tokens; what it saw stays where it is."""
        new = torch.arange(tokens, device=self.beams.device) + self.positions[:, -1:] + 1
        self.positions = torch.cat([self.positions, new], dim=1)
        self.beams = torch.cat([self.beams, self.beams.new_ones(1, 1, tokens)], dim=2)
        self.rollback()

    def rollback(self) -> None:
        """Forget the open block."""
        self.used = self.committed
        self.positions = self.positions[:, : self.used]
        self.lanes = self.beams[:, :0]

    def add_rows(self, other: "SlotMap") -> None:
        """Append the rows of another map, whose prompts may be longer or shorter."""
        wide, beams = max(self.committed, other.committed), max(self.beams.shape[1], other.beams.shape[1])
        for each in (self, other):
            each._widen(wide, beams)
        self.positions = torch.cat([self.positions, other.positions])
        self.beams = torch.cat([self.beams, other.beams])
        self.prompts = torch.cat([self.prompts, other.prompts])
        # Slots below the longest prompt never move: moving a long prompt at every selection would cost more than the
        # few dead slots that rows with shorter prompts keep there.
        self.prompt = max(self.prompt, other.prompt)
        self.rollback()

    def keep_rows(self, rows: Tensor) -> Tensor | None:
        """Keep only these rows, in this order, and the slots that one of their beams sees.

        Returns:
            The slots that stay and close up, shape (S,); None where all do.
        """
        self.positions, self.beams, self.prompts = self.positions[rows], self.beams[rows], self.prompts[rows]
        self.prompt = _longest(self.prompts)
        seen = self.beams.flatten(0, 1).any(dim=0)
        slots = None if bool(seen.all()) else seen.nonzero().squeeze(1)
        if slots is not None:
            self.positions, self.beams = self.positions[:, slots], self.beams[:, :, slots]
        self.rollback()
        return slots

    def _widen(self, slots: int, beams: int) -> None:
        B, K, S = self.beams.shape
        wide = self.beams.new_zeros(B, beams, slots)
        wide[:, :K, :S] = self.beams
        self.beams = wide
        positions = self.positions.new_zeros(B, slots)
        positions[:, :S] = self.positions[:, :S]
        self.positions = positions


def _longest(prompts: Tensor) -> int:
    return int(prompts.max()) if len(prompts) else 0
