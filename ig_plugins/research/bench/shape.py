"""Random Llamas: what is timed does not depend on what the weights say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """A Llama's size; the default is that of the 7B models."""

    layers: int = 32
    hidden: int = 4096
    feed_forward: int = 11008
    heads: int = 32
    key_heads: int = 32
    vocabulary: int = 32000

    def config(self, *, positions: int) -> LlamaConfig:
        """Of a model with room for so many tokens."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=positions,
        )

    def model(self, *, device: torch.device, dtype: torch.dtype, positions: int) -> PreTrainedModel:
        """Random weights, made on the device; the same at every call."""
        with device, dtype_of_new_tensors(dtype):
            torch.manual_seed(0)
            return LlamaForCausalLM(self.config(positions=positions)).eval()


@contextmanager
def dtype_of_new_tensors(dtype: torch.dtype) -> Iterator[None]:
    """Make models in this dtype, rather than in float32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
