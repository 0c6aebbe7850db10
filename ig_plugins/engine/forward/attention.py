"""Attention over several segments of keys, each read once: partial results merged by their log-sum-exp.

Softmax attention over the union of disjoint key sets is the average of the attentions over each, weighted by the
exponential of their log-sum-exps (as in flash and cascade attention). So queries that share keys can be folded into
one product with them, and segments that belong to different groups of queries need not be copied together.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

HALF = torch.float16, torch.bfloat16
BIAS_ALIGNED = 8  # elements, to which CUDA's kernel wants the rows of a mask aligned
# What hides a key. Less than any score, and no overflow in kernels that count in powers of two.
HIDDEN = -1e30
NAME = "tree_segments"  # a name with "flash" in it would be looked for on the hub


@dataclass(frozen=True)
class Grouping:
    """M queries as groups of up to n that share their keys.

    Attributes:
        groups: Number of groups.
        width: n, the queries of the largest group.
        index: Query at each place of the rectangle, shape (groups * n,), leftovers at the places that are not
            needed; None if the queries fill the rectangle in their own order.
        inverse: Place of each query, shape (M,); None with ``index``.
    """

    groups: int
    width: int
    index: Tensor | None
    inverse: Tensor | None

    @classmethod
    def of(cls, member: Tensor, groups: int, device: torch.device) -> "Grouping":
        """Group queries by ``member``, shape (M,), on the host."""
        counts = torch.bincount(member, minlength=groups)
        width = int(counts.max())
        order = member.argsort(stable=True)
        rank = torch.empty_like(member)
        rank[order] = torch.arange(len(member)) - (counts.cumsum(0) - counts)[member[order]]
        places = member * width + rank
        if len(member) == groups * width and torch.equal(places, torch.arange(len(member))):
            return cls(groups, width, None, None)
        index = torch.zeros(groups * width, dtype=torch.long)
        index[places] = torch.arange(len(member))
        return cls(groups, width, index.to(device), places.to(device))

    def fold(self, query: Tensor, heads: int) -> Tensor:
        """Queries (1, Hq, M, D) as (groups, heads, Hq/heads * n, D): query heads of one key head become rows."""
        if self.index is not None:
            query = query[:, :, self.index]
        folded = query.view(heads, -1, self.groups, self.width, query.shape[-1])
        return folded.permute(2, 0, 1, 3, 4).reshape(self.groups, heads, -1, query.shape[-1])

    def unfold(self, states: Tensor) -> Tensor:
        """Undo ``fold``: (groups, heads, Hq/heads * n, ...) to (M, Hq, ...)."""
        tail = states.shape[3:]
        apart = states.view(self.groups, states.shape[1], -1, self.width, *tail)
        flat = apart.movedim(3, 1).reshape(self.groups * self.width, -1, *tail)
        return flat if self.inverse is None else flat[self.inverse]


@dataclass(frozen=True)
class Part:
    """How the queries of one forward read one segment.

    Attributes:
        segment: Which.
        groups: The groups that are read.
        length: The slots that are read.
        grouping: Queries to groups.
        mask: Additive, (groups, 1, 1 or n, length), or None.
        folded: The mask by number of folded queries, see ``mask_of``.
    """

    segment: Literal["rows", "beams", "lanes"]
    groups: slice
    length: int
    grouping: Grouping
    mask: Tensor | None
    folded: dict[int, Tensor] = field(default_factory=dict)

    def mask_of(self, queries: int) -> Tensor | None:
        """The mask for so many folded queries a group; made once, as all layers ask for the same."""
        if self.mask is None or self.mask.shape[2] in (1, queries):
            return self.mask
        if queries not in self.folded:
            self.folded[queries] = self.mask.repeat(1, 1, queries // self.mask.shape[2], 1)
        return self.folded[queries]


@dataclass(frozen=True)
class Plan:
    """One forward of M new tokens.

    Attributes:
        lanes: Group of each token in the lanes' segment, shape (M,), or a slice if they are in order.
        slots: Slot of each token there, shape (M,), or the one of all.
        parts: The segments to read.
    """

    lanes: Tensor | slice
    slots: Tensor | int
    parts: Sequence[Part]


def partial_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over one segment, and the log-sum-exp of its scores.

    Args:
        query: Shape (G, heads, n, D).
        keys: Shape (G, heads, S, D).
        values: Shape (G, heads, S, E).
        mask: Additive, broadcastable to (G, heads, n, S); None for none. Finite, so that a row without a visible key
            gets a log-sum-exp too low to matter instead of NaN.
        scale: Of the scores.

    Returns:
        Shapes (G, heads, n, E) and (G, heads, n), the latter in float32.
    """
    if query.device.type == "cpu" and query.shape[-1] == values.shape[-1]:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # type: ignore[no-any-return]
            query, keys, values, 0.0, False, attn_mask=mask, scale=scale
        )
    if query.device.type == "cuda" and mask is None and query.dtype in HALF:
        result = torch.ops.aten._scaled_dot_product_flash_attention(query, keys, values, 0.0, False, False, scale=scale)
        return result[0], result[1]
    if query.device.type == "cuda" and query.shape[-1] % 8 == values.shape[-1] % 8 == 0:
        return _efficient_attention(query, keys, values, mask, scale)
    scores = (query @ keys.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1).to(values.dtype) @ values, scores.logsumexp(dim=-1)


def _efficient_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """One kernel on CUDA where the operations one by one are sixteen; the only one there that takes a mask."""
    if mask is not None:
        slots = mask.shape[-1]
        if slots % BIAS_ALIGNED:
            mask = F.pad(mask, (0, -slots % BIAS_ALIGNED))[..., :slots]
        mask = mask.expand(*query.shape[:3], slots)
    output, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, keys, values, mask, True, scale=scale
    )
    return output, lse[..., : query.shape[2]]  # which the kernel rounds up


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention over the union of segments, from (output (M, Hq, E), log-sum-exp (M, Hq)) of each: (M, Hq, E)."""
    merged, total = parts[0]
    for place, (output, lse) in enumerate(parts[1:], start=2):
        merged = merged.lerp(output, (lse - total).sigmoid_().unsqueeze(-1).to(output.dtype))
        if place < len(parts):
            total = torch.logaddexp(total, lse)
    return merged


class Segmented(Protocol):
    """A cache layer that answers queries from its own segments."""

    def attend(self, query: Tensor, scale: float) -> Tensor:
        """Attention of queries (1, Hq, M, D) over all they may see: (M, Hq, E)."""


# The layer whose keys were written last, while a tree is being followed; the attention that comes next is its own.
following: ContextVar[Segmented | None] = ContextVar("following", default=None)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: a tree's segments where one is followed, sdpa everywhere else.

    Raises:
        ValueError: The model asks for something that segments do not do; the self-test then turns to another backend.
    """
    layer = following.get()
    if layer is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    for extra in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if kwargs.get(extra) is not None:
            raise ValueError(f"its attention has {extra}")
    output = layer.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return output.unsqueeze(0), None


def register() -> None:
    """Make the attention known to transformers, with the masks of sdpa."""
    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
