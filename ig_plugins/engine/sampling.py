"""Sampling a whole block on a tree session."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import BoolTensor, LongTensor, Tensor

from ig_plugins.engine.sampler import Sampler
from ig_plugins.engine.session import TreeSession
from ig_plugins.errors import ConfigurationError

Histories = Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Block:
    """What the lanes of a block sampled.

    Attributes:
        tokens: Shape (B, L, T), -1 behind a lane's end.
        lengths: Tokens of each lane, shape (B, L).
        finished: Whether a lane's last token is a stop id, bool, shape (B, L).
        hidden: The model's state at each lane's last token, shape (B, L, H).
        total: The sum of the model's states at all of the lane's tokens, float32, shape (B, L, H).
    """

    tokens: LongTensor
    lengths: LongTensor
    finished: BoolTensor
    hidden: Tensor
    total: Tensor


def sample_block(
    session: TreeSession,
    parents: Tensor,
    *,
    samplers: Sequence[Sampler],
    uniforms: Tensor,
    max_tokens: Sequence[int] | Tensor,
    stop_ids: Collection[int],
    penalties: Sequence[Tensor | None] | None = None,
    histories: Histories | None = None,
    on_step: Callable[[], None] | None = None,
) -> Block:
    """Open a block and let every lane sample until it stops or is full. The block stays open.

    The logits in hand are sampled first and the token is fed after, so that at the end of the block every lane's state
    and next logits exist: judging and the children of the survivors cost no further forward.

    Args:
        session: Beams with logits, no block open.
        parents: Beam of each lane, shape (B, L), -1 for an absent lane.
        samplers: One a row.
        uniforms: float64 in [0, 1), shape (B, L, T): number t decides token t of a lane.
        max_tokens: Longest lane of each row, shape (B,), or of each lane, shape (B, L); at most T. A lane of 0 tokens
            stays at its beam, and committing it keeps the beam.
        stop_ids: Tokens that end a lane; they are fed too.
        penalties: For each row None or what to take off the logits at each place of the block, shape (T, V).
        histories: For each row and beam, the tokens so far with the prompt; for samplers that read them.
        on_step: Called before every token; what it raises ends the sampling.

    Raises:
        NonFiniteLogitsError: The model gave logits that cannot be sampled from.
        ConfigurationError: The body has no LM head, or a row asks for more tokens than there are uniforms.
    """
    B, L, T = uniforms.shape
    if session.logits is None:
        raise ConfigurationError("A body without LM head gives no logits to sample from; attach the causal LM instead.")
    limits = torch.as_tensor(max_tokens, dtype=torch.long)
    limits = limits.unsqueeze(1) if limits.dim() == 1 else limits
    if int(limits.max()) > T:
        raise ConfigurationError(
            f"max_tokens is {limits.tolist()} but uniforms hold {T} tokens a lane; give {T} at most."
        )
    session.branch(parents)
    parents = session.tree.open_parents
    draws = _Draws(session, samplers, penalties or [None] * B, histories)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long)
    tokens = torch.full((B, L, T), -1)
    lengths = torch.zeros(B, L, dtype=torch.long)
    finished = torch.zeros(B, L, dtype=torch.bool)
    total = torch.zeros_like(session.lane_hidden, dtype=torch.float32)
    active = (parents >= 0) & (limits > 0)
    draws.grow(active)
    for step in range(T):
        if not draws.growing:
            break
        if on_step is not None:
            on_step()
        drawn = draws.first(uniforms[:, :, 0]) if step == 0 else draws.next(step, uniforms[:, :, step], tokens)
        tokens[:, :, step] = torch.where(active, drawn, -1)
        session.extend(drawn, active)
        total.addcmul_(session.lane_hidden.float(), draws.weights)
        lengths += active
        finished |= active & (drawn.unsqueeze(2) == stops).any(dim=2)
        still = active & ~finished & (lengths < limits)
        if not torch.equal(still, active):
            active = still
            draws.grow(active)
    return Block(tokens, lengths, finished, session.lane_hidden, total)  # type: ignore[arg-type]


class _Draws:
    """Draws for the lanes of an open block; rows with equal samplers are drawn together."""

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
        logits = self.session.lane_logits
        drawn = torch.zeros_like(self.parents)
        for sampler, at, lanes in self.places:
            if len(at) == 0:
                continue
            history = None
            if sampler.reads_history:
                history = self._history(sampler, at, self.parents[at, lanes], tokens[at, lanes, :step])
            picked = sampler.draw(
                _rows(logits, at, lanes),  # type: ignore[arg-type]
                uniforms[at, lanes],
                penalties=self._penalty(at, step),
                history=history,
            )
            drawn[at, lanes] = picked.cpu()
        return drawn

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


def _rows(states: Tensor, rows: Tensor, lanes: Tensor) -> Tensor:
    """States (R, V) of some lanes of (B, L, V), not copied if they are all there is or a single row's first."""
    if len(rows) == states.shape[0] * states.shape[1]:
        return states.flatten(0, 1)
    if states.shape[0] == 1 and int(lanes[-1]) == len(lanes) - 1:
        return states[0, : len(lanes)]
    return states[rows.to(states.device), lanes.to(states.device)]


__all__ = ["Block", "Histories", "Sampler", "sample_block"]
