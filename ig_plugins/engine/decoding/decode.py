"""Sampling a whole block on a tree session."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import BoolTensor, LongTensor, Tensor

from ig_plugins.engine.decoding.device_block import can_decode_on_device, decode_on_device
from ig_plugins.engine.decoding.draws import Draws, Histories
from ig_plugins.engine.decoding.lane_buffer import LaneBuffer
from ig_plugins.engine.decoding.masks import Matchers
from ig_plugins.engine.decoding.sampler import Sampler
from ig_plugins.engine.session import TreeSession
from ig_plugins.engine.speedups.ngram_draft import FEW, ORDER, reach_after
from ig_plugins.engine.states import chosen
from ig_plugins.errors import ConfigurationError


@dataclass(frozen=True)
class Block:
    """What the lanes of a block sampled.

    Attributes:
        tokens: Shape (B, L, T), -1 behind a lane's end.
        lengths: Tokens of each lane, shape (B, L).
        finished: Whether a lane's last token is a stop id, bool, shape (B, L).
        hidden: The model's state at each lane's last token, shape (B, L, H).
        total: The sum of the model's states at all of the lane's tokens, float32, shape (B, L, H).
        states: These states, zeros behind a lane's end, shape (B, L, T, H); (B, L, 0, H) unless they are kept.
    """

    tokens: LongTensor
    lengths: LongTensor
    finished: BoolTensor
    hidden: Tensor
    total: Tensor
    states: Tensor


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
    matchers: Matchers = (),
    on_step: Callable[[], None] | None = None,
    keep_states: bool = False,
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
            stays at its beam, and selecting it keeps the beam.
        stop_ids: Tokens that end a lane; they are fed too.
        penalties: For each row None or what to take off the logits at each place of the block, shape (T, V).
        histories: For each row and beam, the tokens so far with the prompt; for samplers that read them.
        matchers: For each row None, or what its grammar allows at each beam; empty for no grammars. A row whose
            grammar masks tokens takes the whole block through steps whose draws are looked at one by one.
        on_step: Called before every forward; what it raises ends the sampling.
        keep_states: Whether the block is to hold its states.

    Raises:
        NonFiniteLogitsError: The model gave logits that cannot be sampled from.
        ConfigurationError: The body has no LM head, or a row asks for more tokens than there are uniforms.
    """
    B, _, T = uniforms.shape
    if session.logits is None:
        raise ConfigurationError("A body without LM head gives no logits to sample from; attach the causal LM instead.")
    limits = torch.as_tensor(max_tokens, dtype=torch.long)
    limits = limits.unsqueeze(1) if limits.dim() == 1 else limits
    if int(limits.max()) > T:
        raise ConfigurationError(
            f"max_tokens is {limits.tolist()} but uniforms hold {T} tokens a lane; give {T} at most."
        )

    def opened() -> tuple[LaneBuffer, Draws]:
        session.fork(parents)
        rooms = torch.where(session.tree.open_parents < 0, 0, limits)
        lanes = LaneBuffer(session, uniforms, rooms, stop_ids, on_step)
        if keep_states:
            lanes.keep_states(session)
        return lanes, Draws(session, samplers, penalties or [None] * B, histories, matchers)

    lanes, draws = opened()
    ahead = _ahead(session, lanes, draws, histories)
    if ahead and not draws.masks.stayed_idle(draws.parents, lanes.tokens):  # a lane began what a grammar holds
        session.rollback()
        (lanes, draws), ahead = opened(), False
    if not ahead:
        _one_by_one(session, lanes, draws)
    return Block(lanes.tokens, lanes.lengths, lanes.finished, session.lane_hidden, lanes.total, lanes.states)  # type: ignore[arg-type]


def _ahead(session: TreeSession, lanes: LaneBuffer, draws: Draws, histories: Histories | None) -> bool:
    """Grow the lanes in a way that looks at no draw before the next, if there is one here; whether there was."""
    if can_decode_on_device(session, lanes, draws):
        decode_on_device(session, lanes, draws)
    elif session.can_draft and draws.plain and int(lanes.active.sum()) <= FEW:
        _with_drafts(session, lanes, draws, histories)
    else:
        return False
    return True


def _one_by_one(session: TreeSession, lanes: LaneBuffer, draws: Draws) -> None:
    """Every forward takes each lane a token further; of lanes with the same tokens so far the first runs for all.

    A lane that draws a token of its own reads what it shared in one forward, and goes on by itself.
    """
    lane_index, parents = torch.arange(lanes.tokens.shape[1]), session.tree.open_parents
    same_start = parents * (lanes.tokens.shape[2] + 1) + lanes.limits  # same beam, and room for as many tokens
    may_share, was_forwarded = session.can_draft, torch.zeros_like(lanes.active)
    leaders = _first_alike(same_start, lanes.active) if may_share else lane_index.expand_as(parents)
    draws.grow(lanes.active, leaders)
    for step in range(lanes.tokens.shape[2]):
        if not draws.growing:
            break
        lanes.on_step()
        uniforms, active = lanes.uniforms[:, :, step], lanes.active
        drawn = draws.first(uniforms) if step == 0 else draws.next(step, uniforms, lanes.tokens)
        lanes.tokens[:, :, step] = torch.where(active, drawn, -1)
        before, forwarded, catching_up = leaders, active, None
        if may_share:
            leaders = _first_alike(leaders, active, drawn)
            forwarded = active & (leaders == lane_index)
            catching_up = forwarded & ~was_forwarded if step else None
            may_share = not torch.equal(forwarded, active)
        if catching_up is not None and bool(catching_up.any()):
            words = torch.where(catching_up.unsqueeze(2), lanes.tokens[:, :, : step + 1], drawn.unsqueeze(2))
            states = session.append(words, torch.where(catching_up, step + 1, forwarded.long()))
            lanes.total += states.float().sum(dim=2)
            lanes.keep(states[:, :, :1], step, forwarded & ~catching_up)
            lanes.keep(states, 0, catching_up)
        else:
            session.extend(drawn, forwarded)
            lanes.total.addcmul_(session.lane_hidden.float(), forwarded.unsqueeze(2).to(lanes.total))
            lanes.keep(session.lane_hidden.unsqueeze(2), step, forwarded)
        was_forwarded = forwarded
        lanes.lengths += active
        lanes.finished |= active & (drawn.unsqueeze(2) == lanes.stops).any(dim=2)
        lanes.active = active & ~lanes.finished & (lanes.lengths < lanes.limits)
        if not (torch.equal(lanes.active, active) and torch.equal(leaders, before)):
            draws.grow(lanes.active, leaders)
    if not torch.equal(leaders, lane_index.expand_as(leaders)):
        session.follow(leaders)
        lanes.total = chosen(lanes.total, leaders)
        lanes.states = chosen(lanes.states.flatten(2), leaders).view_as(lanes.states)


def _first_alike(groups: Tensor, active: Tensor, drawn: Tensor | None = None) -> Tensor:
    """The first active lane of each one's group that drew the same; others are their own or stay. All (B, L).

    Groups are told by the lane that led them, or at first by the beam.
    """
    alike = (groups.unsqueeze(2) == groups.unsqueeze(1)) & active.unsqueeze(1)
    if drawn is not None:
        alike &= drawn.unsqueeze(2) == drawn.unsqueeze(1)
    stay = torch.arange(groups.shape[1]).expand_as(groups) if drawn is None else groups
    return torch.where(active, alike.int().argmax(dim=2), stay)


def _with_drafts(session: TreeSession, lanes: LaneBuffer, draws: Draws, histories: Histories | None) -> None:
    """Every forward takes each lane as far as the draft of its next tokens was right, and a token further."""
    drafts, parents = session.model.drafts, session.tree.open_parents
    beams = session.tree.beams.gather(1, parents.clamp(min=0))  # tokens of each lane's beam, shape (B, L)
    growing = [(row, lane) for row, lane in lanes.active.nonzero().tolist()]
    before = {
        (row, lane): histories[row][int(parents[row, lane])][-ORDER:] if histories else [] for row, lane in growing
    }
    sampled: dict[tuple[int, int], list[int]] = {key: [] for key in growing}
    drawn = dict(zip(growing, draws.first(lanes.uniforms[:, :, 0])[lanes.active].tolist(), strict=True))
    reach = dict.fromkeys(growing, drafts.reach)
    while growing:
        lanes.on_step()
        fed = {}
        for key in growing:
            most = min(reach[key], int(lanes.limits[key]) - len(sampled[key]) - 1)
            fed[key] = [drawn[key], *drafts.draft([*before[key], *sampled[key], drawn[key]], most)]
        proposal = session.draft(fed)
        at = proposal.packing
        places = (
            torch.tensor([len(sampled[key]) for key in growing]).repeat_interleave(at.counts[at.counts > 0]) + at.steps
        )
        following = (places + 1).clamp(max=lanes.tokens.shape[2] - 1)
        after = draws.after(proposal, lanes.uniforms[at.rows, at.lanes, following]).tolist()
        kept, start = torch.zeros_like(at.counts), 0
        for key in growing:
            tokens = fed[key]
            right = _right(tokens, after[start : start + len(tokens)], lanes.stop_ids)
            reach[key] = reach_after(reach[key], drafted=len(tokens) - 1, right=right - 1)
            lanes.total[key] += proposal.hidden[start : start + right].float().sum(dim=0)
            if lanes.keeps_states:
                lanes.states[key][len(sampled[key]) :][:right] = proposal.hidden[start : start + right]
            sampled[key] += tokens[:right]
            kept[key], drawn[key] = right, after[start + right - 1]
            start += len(tokens)
        session.verify_draft(proposal, kept)
        growing = [
            key
            for key in growing
            if sampled[key][-1] not in lanes.stop_ids and len(sampled[key]) < int(lanes.limits[key])
        ]
    drafts.reach = sum(reach.values()) // max(len(reach), 1)
    for key, tokens in sampled.items():
        lanes.tokens[key][: len(tokens)] = torch.tensor(tokens)
        lanes.lengths[key], lanes.finished[key] = len(tokens), tokens[-1] in lanes.stop_ids
        # Of what came before, the policy sampled as many tokens as its beam has; the rest is the prompt.
        drafts.learn(before[key][-count:] if (count := int(beams[key])) else [], tokens)


def _right(fed: Sequence[int], after: Sequence[int], stop_ids: Collection[int]) -> int:
    """How many of the tokens fed to a lane are its own: the first, then each that was drawn after the one before."""
    right = 1
    while right < len(fed) and fed[right] == after[right - 1] and fed[right - 1] not in stop_ids:
        right += 1
    return right


__all__ = ["Block", "Histories", "Sampler", "sample_block"]
