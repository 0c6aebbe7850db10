"""The forward of a Llama-like decoder in a third of the calls.

A decoding step of few lanes spends much of its time on the way to the arithmetic: hundreds of small calls a token on a
CPU, hundreds of launches on a GPU. For the families below, this is the same function of the same weights with nothing
between the operations. Like packed weights it stands in for the model's own forward only while the engine runs it, and
only after it has given that forward's states on the model at hand.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from ig_plugins.engine.forward.attention import tree_attention
from ig_plugins.engine.forward.caches import TreeCache, cache_name
from ig_plugins.engine.forward.numerics import differences, ordinary_ids, tolerance
from ig_plugins.engine.forward.prepacked_linear import Product, is_plain, is_untouched, within_limit

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
PROBE = 2, 16  # texts and tokens
EXACT = torch.float32, torch.float64  # dtypes in which equal functions give states that can be told from others'


class FusedDecoder:
    """A decoder's embedding, layers and final norm as one function. Made by ``of``."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        linears = [module for module in decoder.layers.modules() if isinstance(module, nn.Linear)]
        self._decoder = decoder
        self._cache_name = cache_name(inspect.signature(decoder.forward).parameters)
        self._layers = [_Layer(layer, copied=within_limit(linears)) for layer in decoder.layers]
        self._usable = True

    @classmethod
    @torch.inference_mode()
    def of(cls, decoder: PreTrainedModel) -> "FusedDecoder | None":
        """The fused form of a decoder, or None if it is of another family or does not give the decoder's states."""
        family = decoder.config.model_type
        known = family in FAMILIES and type(decoder).__module__ == f"transformers.models.{family}.modeling_{family}"
        if not known or not _sees_everything(decoder.config) or not _is_as_made(decoder):
            return None
        fused = cls(decoder)
        fused.refresh()
        ids = ordinary_ids(PROBE[0] * PROBE[1], decoder.config.vocab_size, torch.Generator().manual_seed(0))
        probe = torch.tensor(ids, device=decoder.device).view(PROBE)
        wanted = decoder(input_ids=probe, use_cache=False).last_hidden_state
        with fused.in_use():
            found = decoder(input_ids=probe, use_cache=False).last_hidden_state
        alike = _alike(found, wanted) and (wanted.dtype in EXACT or _layer_is_exact(decoder, probe))
        return fused if alike else None

    def refresh(self) -> None:
        """Look again at the weights; and whether somebody hooks into the layers, who then gets their own forward."""
        self._usable = _is_as_made(self._decoder)
        for layer in self._layers if self._usable else []:
            layer.refresh()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the decoder run like this."""
        mine = self._usable and not torch.is_grad_enabled() and "forward" not in vars(self._decoder)
        if mine:
            vars(self._decoder)["forward"] = self.forward
        try:
            yield
        finally:
            if mine:
                vars(self._decoder).pop("forward", None)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Any = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """As the decoder's own. Fused for what the engine feeds; any other call gets the own forward."""
        decoder, cache = self._decoder, others.pop(self._cache_name, None)
        masked = attention_mask is None or (isinstance(attention_mask, Tensor) and attention_mask.dim() == 4)
        cached = isinstance(cache, TreeCache) or (cache is None and not use_cache)
        if input_ids is None or others or not (masked and cached) or torch.is_grad_enabled():
            return type(decoder).forward(
                decoder, input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask,
                use_cache=use_cache, **{self._cache_name: cache}, **others,
            )  # fmt: skip
        R, N = input_ids.shape
        if position_ids is None:
            before = 0 if cache is None else cache.get_seq_length()
            position_ids = torch.arange(before, before + N, device=input_ids.device).unsqueeze(0)
        states = F.embedding(input_ids, decoder.embed_tokens.weight)
        rotary = _Rotary.by(*decoder.rotary_emb(states, position_ids))
        states = states.flatten(0, 1)  # (R * N, H)
        for layer in self._layers:
            states = layer(states, (R, N), rotary, attention_mask, cache)
        last = _normed(states, decoder.norm).view(R, N, -1)
        return BaseModelOutputWithPast(last_hidden_state=last)


class _Rotary:
    """The rotation of heads by their positions; cosines and signed sines (R, N, 1, D)."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos, sin

    @classmethod
    def by(cls, cos: Tensor, sin: Tensor) -> "_Rotary":
        """From transformers' tables (R, N, D). Half of each head is rotated against the other, hence the sign."""
        low, high = sin.chunk(2, dim=-1)
        return cls(cos.unsqueeze(2), torch.cat([-low, high], dim=-1).unsqueeze(2))

    def __call__(self, heads: Tensor) -> Tensor:
        """Turn heads (R, N, heads, D)."""
        return torch.addcmul(heads * self.cos, heads.roll(heads.shape[-1] // 2, dims=-1), self.sin)


class _Layer:
    """One decoder layer: attention, then a gated feed-forward, each behind a norm and beside a residual."""

    def __init__(self, layer: Any, *, copied: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._before, self._between = layer.input_layernorm, layer.post_attention_layernorm
        self._attention, self._activation = attention, mlp.act_fn
        self._head_norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
        D = attention.head_dim
        self._counts = [projection.out_features // D for projection in (attention.q_proj, attention.k_proj)]
        self._heads = Product(attention.q_proj, attention.k_proj, attention.v_proj, copied=copied)
        self._output = Product(attention.o_proj, copied=copied)
        self._gates = Product(mlp.gate_proj, mlp.up_proj, copied=copied)
        self._down = Product(mlp.down_proj, copied=copied)

    def refresh(self) -> None:
        """Look again at the weights."""
        for product in (self._heads, self._output, self._gates, self._down):
            product.refresh()

    def __call__(
        self, states: Tensor, shape: tuple[int, int], rotary: _Rotary, mask: Tensor | None, cache: Any
    ) -> Tensor:
        """States (R * N, H) after the layer, of R sequences of N tokens."""
        attention, (queries, keys) = self._attention, self._counts
        heads = self._heads(_normed(states, self._before)).view(*shape, -1, attention.head_dim)
        query_key, value = torch.split_with_sizes(heads, [queries + keys, keys], dim=2)
        if self._head_norms:
            parts = zip(torch.split_with_sizes(query_key, [queries, keys], dim=2), self._head_norms, strict=True)
            query_key = torch.cat([_normed(part, norm) for part, norm in parts], dim=2)
        query, key = torch.split_with_sizes(
            rotary(query_key).transpose(1, 2), [queries, keys], dim=1
        )  # (R, heads, N, D)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, attention.layer_idx)
        seen, _ = tree_attention(attention, query, key, value, mask, scaling=attention.scaling)
        states = states + self._output(seen.reshape(len(states), -1))
        gate, up = self._gates(_normed(states, self._between)).chunk(2, dim=-1)
        return states + self._down(self._activation(gate) * up)


def _normed(states: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Whether the probe's states (R, N, H) are the decoder's: all of them, and in half precision most of them.

    Some tokens, the first of a text above all, have huge activations on the way to their state, and half precision
    leaves of those what rounding made.
    """
    apart = differences(found, wanted)
    error = apart.max() if wanted.dtype in EXACT else apart.median()
    return bool(apart.isfinite().all()) and float(error) <= tolerance(wanted.dtype)


def _layer_is_exact(decoder: PreTrainedModel, probe: Tensor) -> bool:
    """Whether the fused layer is the same function as the decoder's first, by a float32 copy of that.

    For half precision, where what many layers round hides a small difference. The layers differ in weights alone.
    """
    layer = copy.deepcopy(decoder.layers[0]).float()
    layer.self_attn.config._attn_implementation = "sdpa"  # the copy's own; others take no masks or no float32
    (R, N), states = probe.shape, decoder.embed_tokens(probe).float()
    cos, sin = decoder.rotary_emb(states, torch.arange(N, device=probe.device).unsqueeze(0))
    mask = torch.full((N, N), torch.finfo(torch.float32).min, device=probe.device).triu(1).expand(R, 1, N, N)
    wanted = layer(states, attention_mask=mask, position_embeddings=(cos, sin))
    found = _Layer(layer, copied=False)(states.flatten(0, 1), (R, N), _Rotary.by(cos, sin), mask, None)
    return _alike(found.view_as(wanted), wanted)


def _sees_everything(config: Any) -> bool:
    """Whether every layer looks at all tokens."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


def _is_as_made(decoder: PreTrainedModel) -> bool:
    """Whether all layers are transformers' own: not adapted, quantised, hooked into or spread over devices."""
    inner = [module for child in decoder.children() for module in child.modules()]
    linears = [module for module in inner if hasattr(module, "in_features")]
    return all(is_untouched(module) for module in inner) and all(is_plain(linear) for linear in linears)
