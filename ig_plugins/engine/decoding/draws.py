"""Draws for the lanes of an open block; rows with equal samplers are drawn together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ig_plugins.engine.decoding.masks import Masks, Matchers
from ig_plugins.engine.decoding.sampler import Sampler
from ig_plugins.engine.forward.attention import Grouping
from ig_plugins.engine.session import Proposal, TreeSession

Histories = Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True)
class _Leading:
    """Lanes (n,) that draw, by their R leaders, whose logits are filtered once for all that draw at them.

    Attributes:
        rows: Row of each leader, shape (R,).
        leaders: Its lane.
        at: Row of each lane, shape (n,).
        lanes: The lane.
        shape: R, and the lanes of the largest following.
        places: Each lane's place in the rectangle of that shape, shape (n,); None if they fill it in their own order.
    """

    rows: Tensor
    leaders: Tensor
    at: Tensor
    lanes: Tensor
    shape: tuple[int, int]
    places: Tensor | None

    @classmethod
    def of(cls, at: Tensor, lanes: Tensor, leads: Tensor) -> "_Leading":
        leading, number = torch.zeros_like(leads, dtype=torch.bool), torch.zeros_like(leads)
        lead = leads[at, lanes]
        leading[at, lead] = True
        rows, leaders = leading.nonzero().unbind(dim=1)
        number[rows, leaders] = torch.arange(len(rows))
        member = number[at, lead]
        if len(rows) == 0:
            return cls(rows, leaders, at, lanes, (0, 0), None)
        grouping = Grouping.of(member, len(rows), torch.device("cpu"))
        return cls(rows, leaders, at, lanes, (len(rows), grouping.width), grouping.inverse)

    def spread(self, uniforms: Tensor) -> Tensor:
        """The lanes' uniform numbers, of (B, L), as a rectangle of a row a leader."""
        mine = uniforms[self.at, self.lanes]
        if self.places is None:
            return mine.view(self.shape)
        numbers = uniforms.new_zeros(self.shape[0] * self.shape[1])
        numbers[self.places] = mine
        return numbers.view(self.shape)

    def collect(self, picked: Tensor, drawn: Tensor) -> None:
        """Write what the rectangle drew to the lanes' places in ``drawn`` (B, L)."""
        flat = picked.flatten()
        drawn[self.at, self.lanes] = flat if self.places is None else flat[self.places]


class Draws:
    """See the module.

    Args:
        session: With an open block.
        samplers: One a row.
        penalties: For each row None or what to take off the logits at each place of the block, shape (T, V).
        histories: For each row and beam, the tokens so far with the prompt; for samplers that read them.
        matchers: For each row None, or what its grammar allows at each beam.
    """

    def __init__(
        self,
        session: TreeSession,
        samplers: Sequence[Sampler],
        penalties: Sequence[Tensor | None],
        histories: Histories | None,
        matchers: Matchers = (),
    ) -> None:
        self.session, self.penalties, self.histories = session, penalties, histories
        self.masks = Masks(matchers)
        self.parents = session.tree.open_parents
        self.groups: dict[Sampler, list[int]] = {}
        for row, sampler in enumerate(samplers):
            self.groups.setdefault(sampler, []).append(row)

    def grow(self, active: Tensor, leads: Tensor) -> None:
        """From now on these lanes draw; mostly for many steps, so what follows from it is kept.

        Args:
            active: Bool, shape (B, L).
            leads: Each lane's leader, the lane at whose logits it draws, shape (B, L).
        """
        self.growing = bool(active.any())
        self.places = [
            (sampler, _Leading.of(*_pairs(rows, active), leads))
            for sampler, rows in self.groups.items()
            if self.growing
        ]

    @torch.inference_mode()
    def first(self, uniforms: Tensor) -> Tensor:
        """First tokens (B, L): lanes of one beam share its logits, which are filtered once."""
        logits = self.session.logits
        drawn = torch.zeros_like(self.parents)
        for sampler, rows in self.groups.items():
            at, beams = _pairs(rows, self.session.tree.beams >= 0)
            mine = (self.parents[at] == beams.unsqueeze(1)).long()  # (R, L): lanes of each of the R beams
            scores: Tensor = logits[at, beams]  # type: ignore[index]
            many = sampler.draw(
                scores,
                uniforms[at],
                penalties=self._penalty(at, 0),
                history=self._history(sampler, at, beams, None),
                allowed=self.masks.first(at, beams, scores) if self.masks else None,
            )
            drawn.index_add_(0, at, many.cpu() * mine)
        return drawn

    @torch.inference_mode()
    def next(self, step: int, uniforms: Tensor, tokens: Tensor) -> Tensor:
        """Tokens (B, L) of the growing lanes at a later step; ``tokens`` (B, L, T) are those before."""
        drawn = torch.zeros_like(self.parents)
        for sampler, leading in self.places:
            at, leaders = leading.rows, leading.leaders
            if len(at) == 0:
                continue
            history = None
            if sampler.reads_history:
                history = self._history(sampler, at, self.parents[at, leaders], tokens[at, leaders, :step])
            scores = self.session.logits_at(at, leaders)
            allowed = None
            if self.masks:
                allowed = self.masks.next(at, self.parents[at, leaders], tokens[at, leaders, :step], scores)
            picked = sampler.draw(
                scores,
                leading.spread(uniforms),
                penalties=self._penalty(at, step),
                history=history,
                allowed=allowed,
            )
            leading.collect(picked.cpu(), drawn)
        self.masks.forget(step)
        return drawn

    @torch.inference_mode()
    def after(self, proposal: Proposal, uniforms: Tensor) -> Tensor:
        """What follows each of M proposed tokens, shape (M,); a uniform number each, and no penalties or histories."""
        uniforms = uniforms.to(proposal.logits.device)
        return self.plainly(proposal.packing.rows)(proposal.logits, uniforms, None).cpu()

    def plainly(self, rows: Tensor) -> Callable[[Tensor, Tensor, list[Tensor] | None], Tensor]:
        """How M tokens of these rows, shape (M,), are drawn by logits (M, V) and uniforms (M,) alone.

        The last argument is ``Sampler.draw``'s ``unseen``.
        """
        groups = [(sampler, torch.isin(rows, torch.tensor(mine))) for sampler, mine in self.groups.items()]
        device = self.session.lane_hidden.device
        indices = [(sampler, mine.nonzero().squeeze(1).to(device)) for sampler, mine in groups if bool(mine.any())]

        def draw(logits: Tensor, uniforms: Tensor, unseen: list[Tensor] | None) -> Tensor:
            if len(indices) == 1:
                return indices[0][0].draw(logits, uniforms, unseen=unseen)
            drawn = torch.zeros(len(uniforms), dtype=torch.long, device=device)
            for sampler, index in indices:
                drawn[index] = sampler.draw(logits[index], uniforms[index], unseen=unseen)
            return drawn

        return draw

    @property
    def steady(self) -> bool:
        """Whether all draws are plain, and none has to be looked at before the next."""
        return self.plain and all(sampler.steady for sampler in self.groups)

    @property
    def plain(self) -> bool:
        """Whether a draw depends on logits alone, not on the place in the block or the tokens before.

        Masks that mask nothing yet are looked at when the block is full.
        """
        read = not self.masks.idle or any(sampler.reads_history for sampler in self.groups)
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
