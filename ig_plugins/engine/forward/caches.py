"""All that this project knows about transformers' caches.

Three kinds, one for each way to follow a tree:

* `SlotCache`: one sequence a row, preallocated; every token of the tree is one slot of it.
* `SegmentCache`: rows with every committed token once, and the lanes of the open block.
* ordinary caches, for the models that cannot follow a tree: copied and re-ordered through their own methods.
"""

import copy
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ig_plugins.engine.forward.attention import Plan, following, merge, partial_attention

# What models call their cache: most, those with recurrent states alone, and all of them from transformers 5.24 on.
CACHE_NAMES = ("past_key_values", "cache_params", "cache")


def cache_name(accepted: Collection[str]) -> str:
    """What a forward that accepts arguments of these names calls its cache."""
    return next((name for name in CACHE_NAMES if name in accepted), CACHE_NAMES[0])


class TreeLayer(CacheLayerMixin):  # type: ignore[misc]
    """What transformers asks of every layer: it keeps all tokens, so masks count from slot 0."""

    is_sliding = False

    def __init__(self, shared: "TreeCache") -> None:
        super().__init__()
        self.shared = shared

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare ahead of the first update."""
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens before the ones that are being fed."""
        return self.shared.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys for a mask that the model makes itself, as in the prefill."""
        return self.shared.length + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class TreeCache(Cache):  # type: ignore[misc]
    """Layers of one kind, made when a model's layer first writes to them."""

    layers: list[Any]

    def __init__(self, layer: Callable[["TreeCache"], TreeLayer]) -> None:
        owner = weakref.proxy(self)  # no cycle: keys and values go when the session goes, not when the collector comes
        super().__init__(layer_class_to_replicate=lambda: layer(owner))  # type: ignore[arg-type]
        self.length = 0


class SlotLayer(TreeLayer):
    """Keys and values of B rows in preallocated slots; written in place, read as views."""

    shared: "SlotCache"
    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new tokens, shape (rows, heads, N, D), behind those in use; return views of all in use."""
        rows, start = self.shared.rows, self.shared.length
        end = start + key_states.shape[2]
        if self.keys is None:
            # Zeros, not empty: a masked slot still meets the softmax's exact zero, and 0 * NaN is NaN.
            self.keys = _slots_like(key_states, self.shared.capacity)
            self.values = _slots_like(value_states, self.shared.capacity)
        self.keys[rows, :, start:end] = key_states
        self.values[rows, :, start:end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]


class SlotCache(TreeCache):
    """One sequence of slots a row.

    Attributes:
        length: Slots in use.
        rows: The rows that the next forward feeds.
        capacity: Slots allocated.
    """

    layers: list[SlotLayer]

    def __init__(self, capacity: int) -> None:
        super().__init__(SlotLayer)
        self.capacity = capacity
        self.rows = slice(None)

    def reserve(self, slots: int) -> None:
        """Make room for this many slots; doubling keeps the copies rare."""
        if slots > self.capacity:
            self._resize(max(slots, 2 * self.capacity))

    def compact(self, start: int, source: Tensor) -> None:
        """Let slot ``start + m`` hold what slot ``source[b, m]`` held; (B, M) indices. In place, behind ``start``."""
        for layer in self.layers:
            for held in (layer.keys, layer.values):
                held[:, :, start : start + source.shape[1]] = _gathered(held, source=source)
        self.length = start + source.shape[1]

    def append(self, other: "SlotCache") -> None:
        """Add the rows of another cache."""
        capacity = max(self.capacity, other.capacity)
        self._resize(capacity)
        other._resize(capacity)
        self.length = max(self.length, other.length)
        for mine, new in zip(self.layers, other.layers, strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, new.keys]), torch.cat([mine.values, new.values])

    def keep_rows(self, rows: Tensor, slots: Tensor | None) -> None:
        """Keep only these rows (n,) and slots (S,), which close up; None for all."""
        if slots is not None:
            self.capacity, self.length = self.capacity - self.length + len(slots), len(slots)
        self._replace(partial(_kept, rows=rows, slots=slots, capacity=self.capacity))

    def bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take over all layers."""
        return sum(held[0, :, 0].nbytes for layer in self.layers for held in (layer.keys, layer.values))

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that holds keys or values."""
        for layer in self.layers:
            yield from (layer.keys, layer.values)

    def _resize(self, capacity: int) -> None:
        if capacity != self.capacity:
            self.capacity = capacity
            self._replace(lambda old: _enlarged(old[:, :, : self.length], groups=len(old), slots=capacity))

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        for layer in self.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)


class Pair(NamedTuple):
    """Keys and values of one segment, each (groups, heads, S, D); a group's keys are shared by all its queries."""

    keys: Tensor
    values: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pair":
        """The same change of both."""
        return Pair(change(self.keys), change(self.values))


class SegmentLayer(TreeLayer):
    """Keys and values of rows, of what single beams read as copies, and of the open block's lanes."""

    shared: "SegmentCache"
    rows: Pair
    beams: Pair
    lanes: Pair

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store a prefill (B, heads, P, D), or the new tokens of lanes (1, heads, M, D)."""
        plan = self.shared.plan
        if plan is None:
            B, _, P, _ = key_states.shape
            prompt = Pair(key_states, value_states)
            self.rows = prompt.map(partial(_enlarged, groups=B, slots=P + self.shared.reserve))
            self.beams = self.lanes = prompt.map(lambda held: held.new_zeros(0, held.shape[1], 0, held.shape[3]))
        else:
            for held, new in zip(self.lanes, (key_states, value_states), strict=True):
                held[plan.lanes, :, plan.slots] = new[0].transpose(0, 1)
            following.set(self)
        return key_states, value_states

    def attend(self, query: Tensor, scale: float) -> Tensor:
        """Attention of the planned queries (1, Hq, M, D) over their segments: (M, Hq, E)."""
        results = []
        for part in self.shared.plan.parts:  # type: ignore[union-attr]
            held: Pair = getattr(self, part.segment)
            keys, values = (each[part.groups, :, : part.length] for each in held)
            folded = part.grouping.fold(query, keys.shape[1])
            output, lse = partial_attention(folded, keys, values, part.mask_of(folded.shape[2]), scale)
            results.append((part.grouping.unfold(output), part.grouping.unfold(lse)))
        return merge(results)


class Moves(NamedTuple):
    """What a selection writes to the rows' segment.

    Attributes:
        kept: Row, slot and former slot of each token that moves, each of shape (n,).
        grown: Row, slot, group and slot in the lanes' segment of each token that comes from there, each (m,).
        blank: Row and slot of what nobody sees, each (k,).
        slots: In use from now on.
    """

    kept: Sequence[Tensor]
    grown: Sequence[Tensor]
    blank: Sequence[Tensor]
    slots: int


class SegmentCache(TreeCache):
    """Three segments a layer; what they mean is the business of the backend that plans.

    Attributes:
        plan: How the next forward writes and reads; None for a prefill.
        reserve: Slots to allocate for committed tokens whenever a row's segment is full.
        room: Groups and slots of the lanes' segment.
    """

    layers: list[SegmentLayer]

    def __init__(self, reserve: int) -> None:
        super().__init__(SegmentLayer)
        self.plan: Plan | None = None
        self.reserve = reserve
        self.room = 0, 0

    @contextmanager
    def following(self, plan: Plan) -> Iterator[None]:
        """Let the attention of the forward inside read these segments."""
        self.plan = plan
        token = following.set(None)
        try:
            yield
        finally:
            following.reset(token)

    def open(self, groups: int, slots: int) -> None:
        """Have room for so many lanes of so many tokens; what is there is kept."""
        if groups <= self.room[0] and slots <= self.room[1]:
            return
        self.room = max(groups, self.room[0]), max(slots, self.room[1])
        for layer in self.layers:
            layer.lanes = layer.lanes.map(partial(_enlarged, groups=self.room[0], slots=self.room[1]))

    def clear(self) -> None:
        """Forget the lanes. Zeros, so that a request whose states were NaN leaves nothing to those that come after."""
        for layer in self.layers:
            for held in layer.lanes:
                held.zero_()

    def take_over(self, moves: Moves) -> None:
        """Compact the rows' segment and put the winners' tokens there."""
        for layer in self.layers:
            if layer.rows.keys.shape[2] < moves.slots:
                groups, slots = len(layer.rows.keys), moves.slots + self.reserve
                layer.rows = layer.rows.map(partial(_enlarged, groups=groups, slots=slots))
            for rows, lanes in zip(layer.rows, layer.lanes, strict=True):
                row, to, source = moves.kept
                if len(row):
                    rows[row, :, to] = rows[row, :, source]  # the right side is a copy: read before it is written over
                row, to, group, slot = moves.grown
                rows[row, :, to] = lanes[group, :, slot]
                row, to = moves.blank
                if len(row):
                    rows[row, :, to] = 0

    def copy_beams(self, rows: Tensor, slots: Tensor) -> None:
        """Copy for each group of beams the slots (G, C) of its row (G,), to be read apart from the row."""
        for layer in self.layers:
            layer.beams = layer.rows.map(lambda held: held[rows.unsqueeze(1), :, slots].transpose(1, 2).contiguous())

    def append(self, other: "SegmentCache", mine: int, new: int) -> None:
        """Add the rows of another cache; so many slots are in use here and there."""
        for layer, added in zip(self.layers, other.layers, strict=True):
            layer.rows = Pair(
                *(_stacked(a[:, :, :mine], b[:, :, :new]) for a, b in zip(layer.rows, added.rows, strict=True))
            )

    def keep_rows(self, rows: Tensor, slots: Tensor | None) -> None:
        """Keep only these rows (n,) and slots (S,), which close up; None for all."""
        capacity = 0 if slots is None else len(slots) + self.reserve
        for layer in self.layers:
            layer.rows = layer.rows.map(partial(_kept, rows=rows, slots=slots, capacity=capacity))

    def bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take over all layers."""
        return sum(held[0, :, 0].nbytes for layer in self.layers for held in layer.rows)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that holds keys or values."""
        for layer in self.layers:
            for pair in (layer.rows, layer.beams, layer.lanes):
                yield from pair


def _slots_like(states: Tensor, slots: int) -> Tensor:
    B, heads, _, D = states.shape
    return states.new_zeros(B, heads, slots, D)


def _enlarged(old: Tensor, *, groups: int, slots: int) -> Tensor:
    """The same groups and slots (G, heads, S, D), with zeros behind both."""
    G, heads, S, D = old.shape
    new = old.new_zeros(groups, heads, slots, D)
    new[:G, :, :S] = old
    return new


def _kept(held: Tensor, *, rows: Tensor, slots: Tensor | None, capacity: int) -> Tensor:
    """These rows of a segment or sequence; of other slots than all, with empty ones behind up to the capacity."""
    held = held.index_select(0, rows)
    return held if slots is None else _enlarged(held.index_select(2, slots), groups=len(held), slots=capacity)


def _gathered(held: Tensor, *, source: Tensor) -> Tensor:
    """Slots ``source[g, s]`` of each group: (G, heads, S, D) by (G, C) to (G, heads, C, D)."""
    return held.gather(2, source[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3]))


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Rows of two segments, the shorter one with empty slots behind."""
    slots = max(first.shape[2], second.shape[2])
    return torch.cat([_enlarged(held, groups=len(held), slots=slots) for held in (first, second)])


def fork_cache(cache: Any, index: Tensor) -> Any:
    """An ordinary cache's copy whose sequence i is the original's sequence ``index[i]``, shape (n,)."""
    forked = copy.deepcopy(cache)
    forked.reorder_cache(index)
    return forked


def cache_tensors(cache: Any) -> Iterator[Tensor]:
    """Every tensor of an ordinary cache's layers, recurrent states included."""
    for layer in cache.layers:
        for held in vars(layer).values():
            parts = held if isinstance(held, list | tuple) else held.values() if isinstance(held, dict) else [held]
            yield from (part for part in parts if isinstance(part, Tensor) and part.dim() > 1)
