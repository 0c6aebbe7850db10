"""All that this project knows about transformers' caches.

Three kinds, one for each way to follow a tree:

* `SlotCache`: one sequence a row, preallocated; every token of the tree is one slot of it.
* `SegmentCache`: prompt, beam and block segments, each stored once.
* ordinary caches, for the models that cannot follow a tree: copied and re-ordered through their own methods.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

LayerT = TypeVar("LayerT", bound="TreeLayer")


class TreeLayer(CacheLayerMixin):  # type: ignore[misc]
    """What transformers asks of every layer: it keeps all tokens, so masks count from slot 0."""

    is_sliding = False

    def __init__(self, shared: "TreeCache[Any]") -> None:
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
        super().__init__(layer_class_to_replicate=lambda: layer(self))
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
        super().__init__(SlotLayer)  # type: ignore[arg-type]
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
                index = source[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
                held[:, :, start : start + source.shape[1]] = held.gather(2, index)
        self.length = start + source.shape[1]

    def append(self, other: "SlotCache") -> None:
        """Add the rows of another cache."""
        capacity = max(self.capacity, other.capacity)
        self._resize(capacity)
        other._resize(capacity)
        self.length = max(self.length, other.length)
        for mine, new in zip(self.layers, other.layers, strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, new.keys]), torch.cat([mine.values, new.values])

    def select(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self._replace(lambda old: old.index_select(0, rows))

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
            self._replace(lambda old: _copied(old, _slots_like(old, capacity), self.length))

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        for layer in self.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)


def _slots_like(states: Tensor, slots: int) -> Tensor:
    B, heads, _, D = states.shape
    return states.new_zeros(B, heads, slots, D)


def _copied(old: Tensor, new: Tensor, used: int) -> Tensor:
    new[:, :, :used] = old[:, :, :used]
    return new


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
