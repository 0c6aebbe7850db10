"""The segments path: prompt, beams and open block are stored apart, and each is read once for all that share it.

A lane's attention is three small ones, merged (see `attention`). New tokens run through the model as one flat
sequence, so that lanes which have ended cost nothing. For plain softmax attention only: windows, soft caps, sinks and
position biases go the masked way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import LongTensor, Tensor

from ig_plugins.engine import attention
from ig_plugins.engine.attention import Grouping, Part, Plan
from ig_plugins.engine.body import Body
from ig_plugins.engine.caches import SegmentCache
from ig_plugins.engine.path import Sizes, prefill
from ig_plugins.tree import ABSENT, Packing, TokenTree


@dataclass(frozen=True)
class _Layout:
    """What the forwards of one packing share, steps of a block mostly being packed alike.

    Attributes:
        packing: Which tokens of which lanes.
        order: The tokens sorted by row, beam and place, so that those that share keys stand together; shape (M,).
        inverse: Where each token went, shape (M,).
        shared: How they read prompts and beams.
        places: Place of each sorted token's lane in the lanes' segment, shape (M,).
        groups: The places that are read.
        own: Sorted tokens to those.
    """

    packing: Packing
    order: Tensor
    inverse: Tensor
    shared: tuple[Part, ...]
    places: Tensor
    groups: slice
    own: Grouping


class SegmentsPath:
    """See the module."""

    name: ClassVar[str] = "segments"

    @classmethod
    def prepare(cls, body: Body) -> None:
        """Give the model the attention that reads segments; where no tree is followed it is sdpa as before."""
        if body.config._attn_implementation == attention.NAME:
            return
        if body.config._attn_implementation != "sdpa" or not body.model._can_set_attn_implementation():
            raise ValueError("it does not let its attention be replaced")
        if "position_ids" not in body.accepts:
            raise ValueError("it takes no positions")
        attention.register()
        body.model.set_attn_implementation(attention.NAME)

    def __init__(self, body: Body, sizes: Sizes) -> None:
        self.body, self.sizes = body, sizes
        # Of shape (1, 1, 1, 1): a mask in four dimensions keeps models from making one of their own.
        self.no_mask = torch.zeros(1, 1, 1, 1, dtype=body.model.dtype, device=body.device)
        self.places = torch.zeros(0, 0, dtype=torch.long)  # of the open block's lanes (B, L), ABSENT until they grow
        self._layout: _Layout | None = None

    def plant(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill the first rows."""
        self.cache = SegmentCache()
        return prefill(self.body, prompts, self.cache)

    def admit(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill new rows apart, then put them behind the others."""
        cache = SegmentCache()
        state = prefill(self.body, prompts, cache)
        rows, groups = self.cache.layers[0].prompt.keys.shape[0], self.cache.layers[0].beams.keys.shape[0]
        self.cache.append(cache, groups // rows)
        return state

    def branch(self, parents: Tensor) -> None:
        """Open a block. A lane gets its place when it first grows, so that lanes which never do take none."""
        self.places = torch.full_like(parents, ABSENT)
        self._layout = None
        self.cache.clear()

    def forward(
        self, tree: TokenTree, tokens: Tensor, packing: Packing, keep: LongTensor
    ) -> tuple[Tensor, Tensor | None]:
        """Feed the tokens as one flat sequence (1, M)."""
        device = self.body.device
        if self._layout is None or self._layout.packing is not packing:
            self._layout = self._laid_out(tree, packing)
        layout = self._layout
        slots = (tree.grown[packing.rows, packing.lanes] + packing.steps)[layout.order]
        self.cache.open(int(self.places.max()) + 1, max(int(slots.max()) + 1, self.sizes.block))
        kept = layout.inverse[keep].to(device)
        with self.cache.following(self._plan(layout, slots)):
            hidden, logits, _ = self.body.run(
                tokens[layout.order].to(device).unsqueeze(0),
                keep=(torch.zeros_like(kept), kept),
                position_ids=tree.depths(packing)[layout.order].to(device).unsqueeze(0),
                attention_mask=self.no_mask,
                past_key_values=self.cache,
                use_cache=True,
            )
        return hidden[0, layout.inverse.to(device)], logits

    def commit(self, tree: TokenTree, lanes: Tensor) -> None:
        """Copy each winner's own tokens to the beams; the prompt stays where it is."""
        self.cache.open(1, self.sizes.block)  # a block in which nothing grew
        device, chosen, present = self.body.device, lanes.clamp(min=0), lanes >= 0
        rows = torch.arange(tree.rows).unsqueeze(1)
        parents = tree.open_parents.gather(1, chosen).clamp(min=0)
        start = max(int(tree.beams.max()), 0)
        before = tree.beams.gather(1, parents).masked_fill(~present, start)
        grown = tree.grown.gather(1, chosen).masked_fill(~present, 0)
        source = None
        if bool((before != start).any()):  # beams of several lengths: close the gap behind the short ones
            slots = torch.arange(int((before + grown).max()))
            source = torch.where(slots < before.unsqueeze(2), slots, slots + start - before.unsqueeze(2))
            source = source.clamp(max=start + int(grown.max()) - 1).flatten(0, 1).to(device)
        self.cache.commit(
            (rows * tree.beams.shape[1] + parents).flatten().to(device),
            self.places.gather(1, chosen).clamp(min=0).flatten().to(device),
            start,
            grown.flatten().to(device),
            source,
        )

    def rollback(self) -> None:
        """Nothing to undo: the next block writes over this one."""

    def retain(self, rows: Tensor) -> None:
        """Keep only these rows."""
        count, groups = self.cache.layers[0].prompt.keys.shape[0], self.cache.layers[0].beams.keys.shape[0]
        each = groups // count
        beams = (rows.unsqueeze(1) * each + torch.arange(each)).flatten()
        self.cache.select(rows.to(self.body.device), beams.to(self.body.device))

    def memory(self, tree: TokenTree) -> dict[str, int]:
        """Bytes of the tokens in each segment, and of all that is allocated."""
        token = self.cache.bytes_per_token()
        return {
            "prompt": int(tree.prompts.sum()) * token,
            "beams": int(tree.beams.clamp(min=0).sum()) * token,
            "block": int(tree.grown.sum()) * token,
            "allocated": sum(held.nbytes for held in self.cache.tensors()),
        }

    def _plan(self, layout: _Layout, slots: Tensor) -> Plan:
        """What the sorted tokens read, and where they go: to ``slots`` of their lanes, shape (M,)."""
        longest, mask = int(slots.max()) + 1, None
        alike = bool((slots == longest - 1).all())
        if not alike:
            owners = slots if layout.own.index is None else slots[layout.own.index.cpu()]
            visible = torch.arange(longest) <= owners.unsqueeze(1)
            mask = self._additive(visible.view(-1, 1, layout.own.width, longest))
        parts = (*layout.shared, Part("lanes", layout.groups, longest, layout.own, mask))
        if alike and layout.own.index is None:  # one token on each of neighbouring lanes: written as a slice
            return Plan(layout.groups, longest - 1, parts)
        return Plan(layout.places.to(self.body.device), slots.to(self.body.device), parts)

    def _laid_out(self, tree: TokenTree, packing: Packing) -> _Layout:
        """Sort and group the tokens, without the rows before the first and after the last that grow."""
        first, last, K = int(packing.rows[0]), int(packing.rows[-1]) + 1, tree.beams.shape[1]
        rows = packing.rows - first
        beams = rows * K + tree.open_parents[packing.rows, packing.lanes]
        order = beams.argsort(stable=True)
        firsts = order[packing.steps[order] == 0]
        firsts = firsts[self.places[packing.rows[firsts], packing.lanes[firsts]] == ABSENT]
        fresh = torch.arange(len(firsts)) + self.places.max() + 1
        self.places[packing.rows[firsts], packing.lanes[firsts]] = fresh
        places = self.places[packing.rows, packing.lanes][order]
        groups = slice(int(places.min()), int(places.max()) + 1)
        shared = (
            self._part("prompt", slice(first, last), rows[order], tree.prompts[first:last]),
            self._part("beams", slice(first * K, last * K), beams[order], tree.beams[first:last].flatten()),
        )
        own = Grouping.of(places - groups.start, groups.stop - groups.start, self.body.device)
        return _Layout(packing, order, order.argsort(), tuple(p for p in shared if p.length), places, groups, own)

    def _part(self, segment: Literal["prompt", "beams"], groups: slice, member: Tensor, lengths: Tensor) -> Part:
        """How tokens read a finished segment whose groups have these lengths, ``ABSENT`` for a group without tokens."""
        longest = max(int(lengths.max()), 0)
        grouping, mask = Grouping.of(member, len(lengths), self.body.device), None
        if bool(((lengths != longest) & (lengths != ABSENT)).any()):
            visible = torch.arange(longest) < lengths.unsqueeze(1)
            mask = self._additive(visible.view(-1, 1, 1, longest))
        return Part(segment, groups, longest, grouping, mask)

    def _additive(self, visible: Tensor) -> Tensor:
        dtype = self.body.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
        return mask.to(self.body.device)
