"""What is measured: a size of model, prompt and search."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.bench.shape import Shape
from ig_plugins.search import SearchConfig


@dataclass(frozen=True)
class Case:
    """A random Llama and a search on it; the defaults are those that the project's targets are stated for.

    Attributes:
        prompt: Tokens of a prompt.
        prompts: Prompts in a batch.
        candidates: Lanes sampled a block and prompt.
        beams: Lanes kept after a block.
        block: Tokens of a block.
        new: Tokens of an answer.
        top_k: Draw among the k most likely tokens; 0 for all.
        layers: Of the model.
        width: Hidden size; heads are 64 wide.
        vocabulary: Of the model.
    """

    prompt: int = 512
    prompts: int = 1
    candidates: int = 16
    beams: int = 4
    block: int = 16
    new: int = 64
    top_k: int = 0
    layers: int = 8
    width: int = 512
    vocabulary: int = 8192

    def __post_init__(self) -> None:
        if self.beams > self.candidates:
            raise ConfigurationError(
                f"beams is {self.beams} and candidates {self.candidates}; keep at most as many beams."
            )
        if self.width % 64:
            raise ConfigurationError(f"width is {self.width}; give a multiple of 64, the width of a head.")

    def model(self) -> PreTrainedModel:
        """The model, the same at every call, in float32 on the CPU."""
        heads = self.width // 64
        shape = Shape(
            layers=self.layers, hidden=self.width, feed_forward=11 * self.width // 4, heads=heads, key_heads=heads,
            vocabulary=self.vocabulary,
        )  # fmt: skip
        return shape.model(device=torch.device("cpu"), dtype=torch.float32, positions=self.prompt + self.new)

    def search(self) -> SearchConfig:
        """The search's settings."""
        return SearchConfig(
            candidates=self.candidates, beams=self.beams, block_tokens=self.block, max_new_tokens=self.new,
            top_k=self.top_k,
        )  # fmt: skip

    def prompt_ids(self) -> torch.Tensor:
        """Random prompts, shape (B, P)."""
        random = torch.Generator().manual_seed(1)
        return torch.randint(3, self.vocabulary, (self.prompts, self.prompt), generator=random)
