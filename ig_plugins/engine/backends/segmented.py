"""The segments backend: what lanes share is stored once and read once for all of them, what is a lane's own apart.

A row's segment holds its prompt, then every committed token once, whatever the number of beams that descend from it;
the open block's tokens lie in a segment of one group a lane. A lane's attention is a small one over each, merged (see
`attention`). New tokens run through the model as one flat sequence, so that lanes which have ended cost nothing. For
plain softmax attention only: windows, soft caps, sinks and position biases go the masked way.

Tokens of some beams only are read in one of two ways, chosen after every block. Under a mask by all queries of the row:
one large product, of which a part is thrown away. Or, where the beams have drifted far apart, by each beam's queries
from a copy: many small products.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from ig_plugins.engine.backends.base import Sizes, Stepper, prefill
from ig_plugins.engine.backends.layout import Layout
from ig_plugins.engine.forward import attention
from ig_plugins.engine.forward.attention import HIDDEN, Grouping, Part, Plan
from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.caches import Moves, SegmentCache
from ig_plugins.engine.tree import ABSENT, Packing, SlotMap, TokenTree

# A masked product does this many times the work a millisecond of one for each of the beams (measured on CPU at 4
# queries a beam: 3.3 times with 16 lanes, 5 times with 64).
MASKED_GAIN = 4


class SegmentedBackend:
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
        self._layout: Layout | None = None
        self._apart: Tensor | None = None  # tokens that each beam reads from a copy (B, K); None where all are masked
        self._together = 0  # slots that all lanes of a row read from the row's segment
        self._lone = False  # there is one beam in all, which sees every slot

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill the first rows."""
        self.cache = SegmentCache(self.sizes.max_new)
        self.slots = _slots(prompts)
        state = prefill(self.body, prompts, self.cache)
        self._choose_reads()
        return state

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill new rows apart, then put them behind the others."""
        cache, slots = SegmentCache(self.sizes.max_new), _slots(prompts)
        state = prefill(self.body, prompts, cache)
        self.cache.append(cache, self.slots.committed, slots.committed)
        self.slots.add_rows(slots)
        self._choose_reads()
        return state

    def fork(self, parents: Tensor) -> None:
        """Open a block. A lane gets its place when it first grows, so that lanes which never do take none."""
        self.places = torch.full_like(parents, ABSENT)
        self._layout = None
        self.cache.clear()

    def forward(
        self, tree: TokenTree, tokens: Tensor, packing: Packing, keep: LongTensor
    ) -> tuple[Tensor, Tensor | None]:
        """Feed the tokens as one flat sequence (1, M)."""
        if self._layout is None or self._layout.packing is not packing:
            self._layout = self._laid_out(tree, packing)
        layout = self._layout
        self.cache.open(int(self.places.max()) + 1, max(int(layout.slots.max()) + 1, self.sizes.block))
        if layout.kept is None or keep is not packing.last:
            layout.keep(keep)
        found = self._run(layout, tokens.to(self.body.device), self._plan(layout), layout.depths)
        layout.slots, layout.depths = layout.slots + layout.strides, layout.depths + layout.advance
        return found

    def stepper(self, tree: TokenTree, packing: Packing, taken: Tensor, steps: int) -> Stepper:
        """See `DeviceBackend`. Every step reads all slots of the block, under a mask by the steps that were taken."""
        layout = self._laid_out(tree, packing)
        layout.keep(packing.all)
        self.cache.open(int(self.places.max()) + 1, max(steps, self.sizes.block))
        places = layout.places.to(self.body.device)
        seen = self._additive(torch.ones(steps, steps, dtype=torch.bool).tril())

        def step(tokens: Tensor) -> tuple[Tensor, Tensor | None]:
            mask = seen.index_select(0, taken).view(1, 1, 1, steps)
            own = Part("lanes", layout.groups, steps, layout.own, mask)
            # A step that may be recorded keeps nothing that it made: what a recording made holds no values yet.
            shared = [replace(part, folded={}) for part in layout.shared]
            plan = Plan(places, taken.expand(len(packing)), (*shared, own))
            return self._run(layout, tokens, plan, layout.depths + taken)

        return step

    def trim(self, packing: Packing, kept: Tensor) -> None:
        """Nothing to undo: a lane's next tokens are written over those that it lost."""
        self._layout = None

    def select(self, tree: TokenTree, lanes: Tensor) -> None:
        """Put the winners' own tokens behind what is committed, and close the gaps that the losers leave."""
        if self._lone and lanes.shape == (1, 1) and int(lanes) >= 0:
            self._append(int(self.places[0, lanes[0, 0]]), int(tree.grown[0, lanes[0, 0]]))
            return
        packing, before = Packing.of(tree.grown), self.slots.committed
        self.slots.fork(tree.open_parents)
        self.slots.grow(packing, packing.steps)  # this backend does not read the positions
        source = self.slots.select(lanes)
        seen = self.slots.beams[:, :, self.slots.prompt :].any(dim=1)
        target = (self.slots.prompt + torch.arange(source.shape[1])).expand_as(source)
        kept, grown, blank = (
            which.nonzero().unbind(dim=1)
            for which in (seen & (source < before) & (source != target), seen & (source >= before), ~seen)
        )
        from_lane = torch.zeros(tree.rows, packing.width, 2, dtype=torch.long)  # group and slot of each new token
        from_lane[packing.rows, packing.columns] = torch.stack(
            [self.places[packing.rows, packing.lanes], packing.steps], dim=1
        )
        group, slot = from_lane[grown[0], source[grown] - before].unbind(dim=1)
        device = self.body.device
        self.cache.take_over(
            Moves(
                kept=[index.to(device) for index in (kept[0], target[kept], source[kept])],
                grown=[index.to(device) for index in (grown[0], target[grown], group, slot)],
                blank=[index.to(device) for index in (blank[0], target[blank])],
                slots=self.slots.committed,
            )
        )
        self._choose_reads()

    def _run(self, layout: Layout, tokens: Tensor, plan: Plan, depths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states (M, H) of packed tokens (M,) at sorted depths (M,), and logits of those that are kept."""
        with self.cache.following(plan):
            hidden, logits, _ = self.body.run(
                tokens[layout.order].unsqueeze(0),
                keep=(torch.zeros_like(layout.kept), layout.kept),  # type: ignore[arg-type]
                position_ids=depths.unsqueeze(0),
                attention_mask=self.no_mask,
                cache=self.cache,
                use_cache=True,
            )
        return hidden[0, layout.inverse], logits

    def _append(self, place: int, tokens: int) -> None:
        """The only beam goes on as one of its lanes, whose tokens follow what is committed; that does not move."""
        new, none = torch.arange(tokens, device=self.body.device), torch.zeros(0, dtype=torch.long)
        row, at = torch.zeros_like(new), new + self.slots.committed
        self.slots.append(tokens)
        moves = Moves([none] * 3, [row, at, torch.full_like(new, place), new], [none] * 2, self.slots.committed)
        self.cache.take_over(moves)
        self._choose_reads()

    def rollback(self) -> None:
        """Nothing to undo: the next block writes over this one."""

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows."""
        slots = self.slots.keep_rows(rows)
        self.cache.keep_rows(rows.to(self.body.device), None if slots is None else slots.to(self.body.device))
        self._choose_reads()

    def memory(self, tree: TokenTree) -> dict[str, int]:
        """Bytes of unique tokens, and of all that is allocated."""
        token, prompt = self.cache.bytes_per_token(), int(tree.prompts.sum())
        seen = int(self.slots.beams.any(dim=1).sum())
        return {
            "prompt": prompt * token,
            "beams": (seen - prompt) * token,
            "block": int(tree.grown.sum()) * token,
            "allocated": sum(held.nbytes for held in self.cache.tensors()),
        }

    def _choose_reads(self) -> None:
        """Choose how committed tokens that only some beams descend from are read until the next selection."""
        sees = self.slots.beams
        self._lone = sees.shape[:2] == (1, 1)
        if self._lone:
            self._together, self._apart = sees.shape[2], None
            return
        absent = ~sees.any(dim=2, keepdim=True)
        agreed = (sees | absent).all(dim=1) | ~sees.any(dim=1)  # (B, S)
        shared, slots = int(agreed.all(dim=0).long().cumprod(dim=0).sum()), sees.shape[2]
        apart = sees[:, :, shared:].sum(dim=2)  # (B, K)
        most = int(apart.max()) if apart.numel() else 0
        # CUDA's fused kernel takes no masks.
        if shared == slots or (self.body.device.type == "cpu" and slots - shared <= MASKED_GAIN * most):
            self._together, self._apart = slots, None
            return
        self._together, self._apart = shared, apart
        order = shared + (~sees[:, :, shared:]).long().argsort(dim=2, stable=True)[:, :, :most]
        rows = torch.arange(len(sees)).repeat_interleave(sees.shape[1])
        self.cache.copy_beams(rows.to(self.body.device), order.flatten(0, 1).to(self.body.device))

    def _plan(self, layout: Layout) -> Plan:
        """What the sorted tokens read, and where they go: to their slots of their lanes."""
        slots, mask = layout.slots, None
        longest = int(slots.max()) + 1
        if not layout.alike:
            owners = slots if layout.own.index is None else slots[layout.own.index.cpu()]
            visible = torch.arange(longest) <= owners.unsqueeze(1)
            mask = self._additive(visible.view(-1, 1, layout.own.width, longest))
        parts = (*layout.shared, Part("lanes", layout.groups, longest, layout.own, mask))
        if layout.alike and layout.own.index is None:  # one token on each of neighbouring lanes: written as a slice
            return Plan(layout.groups, longest - 1, parts)
        return Plan(layout.places.to(self.body.device), slots.to(self.body.device), parts)

    def _laid_out(self, tree: TokenTree, packing: Packing) -> Layout:
        """Sort and group the tokens, without the rows before the first and after the last that grow."""
        first, last, K = int(packing.rows[0]), int(packing.rows[-1]) + 1, tree.beams.shape[1]
        rows = packing.rows - first
        order: Tensor | slice = slice(None)
        inverse: Tensor | slice = slice(None)
        if self._lone:
            shared = [Part("rows", slice(0, 1), self._together, Grouping(1, len(packing), None, None), None)]
        else:
            beams = rows * K + tree.open_parents[packing.rows, packing.lanes]
            order = beams.argsort(stable=True)
            shared = [self._rows(slice(first, last), rows[order], beams[order] - rows[order] * K)]
            if self._apart is not None:
                shared.append(self._beams(slice(first * K, last * K), beams[order], self._apart[first:last].flatten()))
        firsts = packing.all[order][packing.steps[order] == 0]
        firsts = firsts[self.places[packing.rows[firsts], packing.lanes[firsts]] == ABSENT]
        fresh = torch.arange(len(firsts)) + self.places.max() + 1
        self.places[packing.rows[firsts], packing.lanes[firsts]] = fresh
        places = self.places[packing.rows, packing.lanes][order]
        groups = slice(int(places.min()), int(places.max()) + 1)
        own = Grouping.of(places - groups.start, groups.stop - groups.start, self.body.device)
        slots = (tree.grown[packing.rows, packing.lanes] + packing.steps)[order]
        strides = packing.counts[packing.rows, packing.lanes][order]
        alike = bool((slots == slots[0]).all()) and int(strides.max()) == 1
        depths, device = tree.depths(packing)[order], self.body.device
        if not isinstance(order, slice):
            order, inverse = order.to(device), order.argsort().to(device)
        return Layout(
            packing, order, inverse, tuple(shared), places, groups, own, slots, strides, depths.to(device),
            strides.to(device), alike,
        )  # fmt: skip

    def _rows(self, groups: slice, rows: Tensor, beams: Tensor) -> Part:
        """How tokens of these rows and beams, each of shape (M,), read their rows' segment."""
        sees = self.slots.beams[groups, :, : self._together]
        grouping, mask = Grouping.of(rows, len(sees), self.body.device), None
        if self._apart is None and bool((sees != sees[:, :1]).any()):
            owners = slice(None) if grouping.index is None else grouping.index.cpu()
            mask = self._additive(sees[rows[owners], beams[owners]].view(len(sees), 1, grouping.width, -1))
        elif not bool((seen := sees.any(dim=1)).all()):
            mask = self._additive(seen[:, None, None])
        return Part("rows", groups, self._together, grouping, mask)

    def _beams(self, groups: slice, beams: Tensor, lengths: Tensor) -> Part:
        """How tokens of these beams, shape (M,), read their copies, which have these lengths."""
        longest = int(self._apart.max())  # type: ignore[union-attr]
        grouping, mask = Grouping.of(beams, len(lengths), self.body.device), None
        if bool((lengths != longest).any()):
            mask = self._additive((torch.arange(longest) < lengths.unsqueeze(1))[:, None, None])
        return Part("beams", groups, longest, grouping, mask)

    def _additive(self, visible: Tensor) -> Tensor:
        dtype = self.no_mask.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, max(torch.finfo(dtype).min, HIDDEN))
        return mask.to(self.body.device)


def _slots(prompts: Sequence[Sequence[int]]) -> SlotMap:
    return SlotMap(torch.tensor([len(prompt) for prompt in prompts]))
