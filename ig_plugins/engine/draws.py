"""Draws for the lanes of an open block; rows with equal samplers are drawn together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ig_plugins.engine.sampler import Sampler
from ig_plugins.engine.session import Proposal, TreeSession

Histories = Sequence[Sequence[Sequence[int]]]


class Draws:
    """See the module.

    Args:
        session: With an open block.
        samplers: One a row.
        penalties: For each row None or what to take off the logits at each place of the block, shape (T, V).
        histories: For each row and beam, the tokens so far with the prompt; for samplers that read them.
    """

    def __init__(
        self,
        session: TreeSession,
        samplers: Sequence[Sampler],
        penalties: Sequence[Tensor | None],
        histories: Histories | None,
    ) -> None:
        self.session, self.penalties, self.histories = session, penalties, histories
        self.parents = session.tree.open_parents
        self.groups: dict[Sampler, list[int]] = {}
        for row, sampler in enumerate(samplers):
            self.groups.setdefault(sampler, []).append(row)

    def grow(self, active: Tensor) -> None:
        """From now on these lanes draw, bool (B, L); mostly for many steps, so what follows from it is kept."""
        self.growing = bool(active.any())
        self.weights = active.unsqueeze(2).to(self.session.lane_hidden.device, torch.float32)
        self.places = [(sampler, *_pairs(rows, active)) for sampler, rows in self.groups.items()]

    @torch.inference_mode()
    def first(self, uniforms: Tensor) -> Tensor:
        """First tokens (B, L): lanes of one beam share its logits, which are filtered once."""
        logits = self.session.logits
        drawn = torch.zeros_like(self.parents)
        for sampler, rows in self.groups.items():
            at, beams = _pairs(rows, self.session.tree.beams >= 0)
            mine = (self.parents[at] == beams.unsqueeze(1)).long()  # (R, L): lanes of each of the R beams
            many = sampler.draw(
                logits[at, beams],  # type: ignore[index]
                uniforms[at],
                penalties=self._penalty(at, 0),
                history=self._history(sampler, at, beams, None),
            )
            drawn.index_add_(0, at, many.cpu() * mine)
        return drawn

    @torch.inference_mode()
    def next(self, step: int, uniforms: Tensor, tokens: Tensor) -> Tensor:
        """Tokens (B, L) of the growing lanes at a later step; ``tokens`` (B, L, T) are those before."""
        drawn = torch.zeros_like(self.parents)
        for sampler, at, lanes in self.places:
            if len(at) == 0:
                continue
            history = None
            if sampler.reads_history:
                history = self._history(sampler, at, self.parents[at, lanes], tokens[at, lanes, :step])
            picked = sampler.draw(
                self.session.logits_at(at, lanes),
                uniforms[at, lanes],
                penalties=self._penalty(at, step),
                history=history,
            )
            drawn[at, lanes] = picked.cpu()
        return drawn

    @torch.inference_mode()
    def after(self, proposal: Proposal, uniforms: Tensor) -> Tensor:
        """What follows each of M proposed tokens, shape (M,); a uniform number each, and no penalties or histories."""
        drawn, rows = torch.zeros(len(uniforms), dtype=torch.long), proposal.packing.rows
        for sampler, mine in self.groups.items():
            at = slice(None) if len(self.groups) == 1 else torch.isin(rows, torch.tensor(mine))
            drawn[at] = sampler.draw(proposal.logits[at], uniforms[at]).cpu()
        return drawn

    @property
    def plain(self) -> bool:
        """Whether a draw depends on logits alone, not on the place in the block or the tokens before."""
        read = any(sampler.reads_history for sampler in self.groups)
        return not read and all(penalty is None for penalty in self.penalties)

    def _penalty(self, rows: Tensor, step: int) -> Tensor | None:
        """Penalties (R, V) of these rows at this place of the block, or None if they have none."""
        if all(penalty is None for penalty in self.penalties):
            return None
        chosen = [self.penalties[row] for row in rows.tolist()]
        if all(penalty is None for penalty in chosen):
            return None
        width = next(penalty.shape[1] for penalty in chosen if penalty is not None)
        none = torch.zeros(width)
        return torch.stack([none if p is None or step >= len(p) else p[step].to(none) for p in chosen])

    def _history(self, sampler: Sampler, rows: Tensor, beams: Tensor, tokens: Tensor | None) -> list[list[int]] | None:
        """The tokens so far of R lanes: their beam's, then the block's (R, t)."""
        if not sampler.reads_history or self.histories is None:
            return None
        new = [[]] * len(rows) if tokens is None else tokens.tolist()
        pairs = zip(rows.tolist(), beams.tolist(), strict=True)
        return [[*self.histories[row][beam], *new[i]] for i, (row, beam) in enumerate(pairs)]


def _pairs(rows: Sequence[int], flags: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every set flag (B, n) in these rows."""
    wanted = torch.zeros_like(flags)
    wanted[list(rows)] = flags[list(rows)]
    at, columns = wanted.nonzero().unbind(dim=1)
    return at, columns
