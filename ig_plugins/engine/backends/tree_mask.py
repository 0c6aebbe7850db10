"""The masked backend: all lanes of a prompt are one sequence, and a mask lets each see its own ancestors only.

Public inputs of transformers' decoders, so it runs whatever attention the model has: windows, sinks, soft caps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import LongTensor, Tensor

from ig_plugins.engine.backends.base import Sizes, prefill
from ig_plugins.engine.forward import attention
from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.caches import SlotCache
from ig_plugins.engine.tree import Packing, SlotMap, TokenTree

Near = Callable[[Tensor, Tensor], Tensor]  # whether positions of queries and keys are near enough to be seen


def attention_kinds(config: Any) -> dict[str, Near | None]:
    """How far a model's layers look, by layer type; None for all the way.

    Raises:
        ValueError: A layer type that is not attention over tokens.
    """
    window: Any = getattr(config, "sliding_window", None)
    chunk: Any = getattr(config, "attention_chunk_size", None)
    known: dict[str, Near | None] = {
        "full_attention": None,
        "sliding_attention": lambda query, key: query - key < window,
        "chunked_attention": lambda query, key: query // chunk == key // chunk,
    }
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if not kinds <= set(known):
        raise ValueError(f"its layers are of types {sorted(kinds)}")
    return {kind: known[kind] for kind in sorted(kinds)}


class TreeMaskBackend:
    """See the module."""

    name: ClassVar[str] = "masked"

    @classmethod
    def prepare(cls, body: Body) -> None:
        """Have an attention that takes masks: sdpa, or eager for models that bring nothing else."""
        if "position_ids" not in body.accepts:
            raise ValueError("it takes no positions")
        attention_kinds(body.config)
        if body.config._attn_implementation not in ("sdpa", "eager", attention.NAME):
            body.model.set_attn_implementation("sdpa")

    def __init__(self, body: Body, sizes: Sizes) -> None:
        self.body, self.sizes = body, sizes
        self.kinds = attention_kinds(body.config)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill the first rows into slots of their own."""
        self.cache, self.slots, hidden, logits = self._prefilled(prompts)
        return hidden, logits

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill new rows apart, then put them behind the others."""
        cache, slots, hidden, logits = self._prefilled(prompts)
        self.slots.add_rows(slots)
        self.cache.append(cache)
        return hidden, logits

    def fork(self, parents: Tensor) -> None:
        """Let every lane see what its beam sees, and make room for the block."""
        self.slots.fork(parents.to(self.body.device))
        self.cache.reserve(self.slots.used + parents.shape[1] * self.sizes.block)

    def forward(
        self, tree: TokenTree, tokens: Tensor, packing: Packing, keep: LongTensor
    ) -> tuple[Tensor, Tensor | None]:
        """Feed the tokens as one rectangle (B, N), without the rows before the first and after the last that grow."""
        device = self.body.device
        sees, positions = self.slots.place(packing, tree.depths(packing))
        self.cache.reserve(self.slots.used)
        first, last = int(packing.rows[0]), int(packing.rows[-1]) + 1
        rows, columns = (packing.rows - first).to(device), packing.columns.to(device)
        ids = torch.zeros(last - first, packing.width, dtype=torch.long, device=device)
        ids[rows, columns] = tokens.to(device)
        keep = keep.to(device)  # type: ignore[assignment]
        self.cache.rows = slice(first, last)
        hidden, logits, _ = self.body.run(
            ids,
            keep=(rows[keep], columns[keep]),
            position_ids=positions[first:last],
            attention_mask=self._mask(sees[first:last], positions[first:last], slice(first, last)),
            cache=self.cache,
            use_cache=True,
        )
        self.cache.length = self.slots.used
        return hidden[rows, columns], logits

    def trim(self, packing: Packing, kept: Tensor) -> None:
        """Let nobody see what is taken back; its slots go at the next selection."""
        self.slots.trim(packing, kept)

    def select(self, tree: TokenTree, lanes: Tensor) -> None:
        """Compact: what no surviving beam descends from is overwritten in place."""
        source = self.slots.select(lanes.to(self.body.device))
        self.cache.compact(self.slots.prompt, source)

    def rollback(self) -> None:
        """Forget the block; its slots are written over by the next."""
        self.slots.rollback()
        self.cache.length = self.slots.used

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows."""
        rows = rows.to(self.body.device)
        self.cache.keep_rows(rows, self.slots.keep_rows(rows))

    def memory(self, tree: TokenTree) -> dict[str, int]:
        """Bytes of unique tokens, and of all slots allocated."""
        token = self.cache.bytes_per_token()
        prompt, block = int(tree.prompts.sum()), int(tree.grown.sum())
        seen = int(self.slots.beams.any(dim=1).sum())
        return {
            "prompt": prompt * token,
            "beams": (seen - prompt) * token,
            "block": block * token,
            "allocated": sum(held.nbytes for held in self.cache.tensors()),
        }

    def _prefilled(self, prompts: Sequence[Sequence[int]]) -> tuple[SlotCache, SlotMap, Tensor, Tensor | None]:
        slots = SlotMap(torch.tensor([len(prompt) for prompt in prompts], device=self.body.device))
        # Room for a block and a quarter of the lanes as beams; `reserve` doubles where a search needs more.
        beams = max(1, self.sizes.lanes // 4)
        cache = SlotCache(slots.prompt + beams * self.sizes.max_new + self.sizes.lanes * self.sizes.block)
        hidden, logits = prefill(self.body, prompts, cache)
        cache.length = slots.prompt
        return cache, slots, hidden, logits

    def _mask(self, sees: Tensor, positions: Tensor, rows: slice) -> Tensor | Mapping[str, Tensor]:
        """Additive masks (B, 1, N, S): one tensor, or one by layer type where a model has several.

        Args:
            sees: Who sees whom in the tree, bool (B, N, S).
            positions: Of the new tokens, (B, N).
            rows: The rows these are.
        """
        masks = {}
        for kind, near in self.kinds.items():
            visible = sees
            if near is not None:
                visible = sees & near(positions.unsqueeze(2), self.slots.positions[rows].unsqueeze(1))
            dtype = self.body.model.dtype
            hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            masks[kind] = hidden.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)
        return masks if len(masks) > 1 else next(iter(masks.values()))
