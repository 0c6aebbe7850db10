"""The token tree: who is whose parent and how deep everyone stands.

A row is a prompt. Its beams are the continuations kept so far; while a block is open, lanes grow from the beams.
Everything here is small and lives on the host, so that asking a question of the tree never waits for a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import LongTensor, Tensor

from critic_models.errors import InferenceGuardError

ABSENT = -1


class TreeStateError(InferenceGuardError, RuntimeError):
    """The tree was asked for something that its state does not allow, such as a token for a lane that is not there."""


@dataclass(frozen=True)
class Packing:
    """M new tokens, listed row by row and lane by lane: which row, lane and step each belongs to.

    Attributes:
        rows: Row of each token, shape (M,), ascending.
        lanes: Lane of each token, shape (M,), ascending within a row.
        steps: Place among its lane's new tokens, shape (M,).
        columns: Place among its row's new tokens, shape (M,).
        counts: New tokens of each lane, shape (B, L).
        width: Most new tokens of any row.
    """

    rows: LongTensor
    lanes: LongTensor
    steps: LongTensor
    columns: LongTensor
    counts: LongTensor
    width: int

    @classmethod
    def of(cls, counts: Tensor) -> "Packing":
        """List ``counts`` (B, L) new tokens a lane; lanes with none take no place."""
        longest = int(counts.max()) if counts.numel() else 0
        wanted = torch.arange(longest) < counts.unsqueeze(-1)  # (B, L, T)
        rows, lanes, steps = wanted.nonzero().unbind(dim=1)
        per_row = counts.sum(dim=1)
        columns = torch.arange(len(rows)) - (per_row.cumsum(0) - per_row)[rows]
        return cls(rows, lanes, steps, columns, counts, int(per_row.max()) if len(per_row) else 0)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows, lanes, steps and columns on a device."""
        return self.rows.to(device), self.lanes.to(device), self.steps.to(device), self.columns.to(device)

    @cached_property
    def all(self) -> LongTensor:
        """Index of every token, shape (M,)."""
        return torch.arange(len(self.rows))  # type: ignore[return-value]

    @cached_property
    def last(self) -> LongTensor:
        """Index among the M tokens of each growing lane's last one, lanes in order."""
        return self.ends(self.counts)

    def ends(self, kept: Tensor) -> LongTensor:
        """The same if only the first ``kept`` (B, L) tokens of every lane count."""
        return (self.steps == kept[self.rows, self.lanes] - 1).nonzero().squeeze(1)  # type: ignore[return-value]


class TokenTree:
    """Beams of every row, and the lanes of the open block if there is one.

    Attributes:
        prompts: Prompt lengths, shape (B,).
        beams: Committed tokens of each beam, shape (B, K); ``ABSENT`` where a row has fewer beams.
        parents: Beam of each lane, shape (B, L), ``ABSENT`` for a lane that is not there; None between blocks.
        grown: Tokens of each lane in the open block, shape (B, L).
    """

    def __init__(self, prompts: Sequence[int]) -> None:
        self.prompts: Tensor = torch.tensor(prompts, dtype=torch.long)
        self.beams: Tensor = torch.zeros(len(prompts), 1, dtype=torch.long)
        self.parents: Tensor | None = None
        self.grown: Tensor = torch.zeros(len(prompts), 0, dtype=torch.long)

    @property
    def rows(self) -> int:
        """B, the number of prompts."""
        return len(self.prompts)

    @property
    def open_parents(self) -> Tensor:
        """Parents of the open block's lanes, shape (B, L).

        Raises:
            TreeStateError: No block is open.
        """
        if self.parents is None:
            raise TreeStateError("No block is open; call fork(parents) first.")
        return self.parents

    def fork(self, parents: Tensor) -> None:
        """Open a block whose lane l of row b grows from beam ``parents[b, l]``.

        Raises:
            TreeStateError: A block is open already, the shape is wrong, or a lane names a beam that is not there.
        """
        self._require_closed("fork")
        parents = parents.to("cpu", torch.long)
        self._check(parents, self.beams >= 0, "beam")
        self.parents = parents
        self.grown = torch.zeros_like(parents)

    def pack(self, counts: Tensor) -> Packing:
        """List the new tokens of the open block's lanes, ``counts`` (B, L) of them.

        Raises:
            TreeStateError: No block is open, the shape is wrong, or an absent lane is to grow.
        """
        counts = counts.to("cpu", torch.long)
        parents = self.open_parents
        if counts.shape != parents.shape:
            raise TreeStateError(f"Lanes are {tuple(parents.shape)} (rows, lanes); got {tuple(counts.shape)}.")
        if bool(((parents < 0) & (counts > 0)).any()):
            raise TreeStateError("An absent lane (parent -1) cannot grow; give it no token.")
        return Packing.of(counts)

    def depths(self, packing: Packing) -> LongTensor:
        """Position in the text of every packed token, shape (M,)."""
        starts = self.prompts.unsqueeze(1) + self.lane_lengths()
        return starts[packing.rows, packing.lanes] + packing.steps  # type: ignore[return-value]

    def lane_lengths(self) -> Tensor:
        """Committed plus new tokens of every lane of the open block, shape (B, L)."""
        return self.beams.gather(1, self.open_parents.clamp(min=0)) + self.grown

    def grow(self, packing: Packing) -> None:
        """Record that the packed tokens now exist."""
        self.grown = self.grown + packing.counts

    def cut(self, lengths: Tensor) -> None:
        """Let the open block's lanes have these lengths, shape (B, L), which are no longer than those they had."""
        self.grown = lengths.clone()

    def check_lanes(self, lanes: Tensor) -> None:
        """Whether these lanes, shape (B, K), can become the beams.

        Raises:
            TreeStateError: No block is open, the shape is wrong, or a lane is not there.
        """
        self._check(lanes.to("cpu", torch.long), self.open_parents >= 0, "lane")

    def select(self, lanes: Tensor) -> None:
        """Close the block: lane ``lanes[b, k]`` becomes beam k of row b, every other lane is gone.

        Raises:
            TreeStateError: As ``check_lanes``.
        """
        self.check_lanes(lanes)
        lanes = lanes.to("cpu", torch.long)
        kept = self.lane_lengths().gather(1, lanes.clamp(min=0))
        self.beams = kept.masked_fill(lanes < 0, ABSENT)
        self.rollback()

    def rollback(self) -> None:
        """Close the block and forget its lanes."""
        self.parents = None
        self.grown = torch.zeros(self.rows, 0, dtype=torch.long)

    def add_rows(self, prompts: Sequence[int]) -> None:
        """Append rows for prompts of these lengths, between blocks."""
        self._require_closed("add_rows")
        fresh = torch.full((len(prompts), self.beams.shape[1]), ABSENT)
        fresh[:, 0] = 0
        self.prompts = torch.cat([self.prompts, torch.tensor(prompts, dtype=torch.long)])
        self.beams = torch.cat([self.beams, fresh])
        self.grown = torch.zeros(self.rows, 0, dtype=torch.long)

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows, in this order, between blocks."""
        self._require_closed("keep_rows")
        self.prompts, self.beams = self.prompts[rows], self.beams[rows]
        self.grown = torch.zeros(self.rows, 0, dtype=torch.long)

    def _require_closed(self, action: str) -> None:
        if self.parents is not None:
            raise TreeStateError(f"{action} needs a closed block; call select or rollback first.")

    def _check(self, chosen: Tensor, present: Tensor, what: str) -> None:
        """Whether every chosen index, shape (B, n), is ``ABSENT`` or points at something present, shape (B, m)."""
        if chosen.dim() != 2 or len(chosen) != self.rows:
            raise TreeStateError(
                f"Expected one row of {what}s for each of {self.rows} prompts; got {tuple(chosen.shape)}."
            )
        if bool((chosen < ABSENT).any()) or bool((chosen >= present.shape[1]).any()):
            raise TreeStateError(
                f"A {what} index must be -1 (absent) or below {present.shape[1]}; got {chosen.tolist()}."
            )
        if not bool((present.gather(1, chosen.clamp(min=0)) | (chosen < 0)).all()):
            raise TreeStateError(f"A {what} that is absent was chosen: {chosen.tolist()}.")


__all__ = ["ABSENT", "Packing", "TokenTree", "TreeStateError"]
