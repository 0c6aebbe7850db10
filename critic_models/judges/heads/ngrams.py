"""Hashed n-grams of words and characters: what a linear head reads without a vocabulary, a download or a library."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s]")
Range = tuple[int, int]


class NgramConfig(BaseModel):
    """Which n-grams are read, and into how many buckets they are hashed.

    Attributes:
        words: Shortest and longest word n-gram; None for none.
        chars: The same for characters within words, word boundaries included.
        buckets: How many weights there are; n-grams that share one are not told apart.
        prompt: Whether the prompt's n-grams are read as well, as features of their own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: Range | None = (1, 2)
    chars: Range | None = None
    buckets: int = Field(default=2**16, ge=2, le=2**22)
    prompt: bool = False

    @model_validator(mode="after")
    def _reads_something(self) -> "NgramConfig":
        if self.words is None and self.chars is None:
            raise ValueError("neither words nor chars: there is nothing to read")
        for low, high in filter(None, (self.words, self.chars)):
            if not 1 <= low <= high <= 8:
                raise ValueError(f"n-grams from {low} to {high}; give 1 <= shortest <= longest <= 8")
        return self


class Bags(NamedTuple):
    """Rows of n-gram counts, one after the other.

    Attributes:
        rows: int64, shape (n,): the text that each entry belongs to.
        buckets: int64, shape (n,).
        values: float32, shape (n,): 1 + log of the count.
        size: How many rows there are, empty ones included.
    """

    rows: Tensor
    buckets: Tensor
    values: Tensor
    size: int


def bags(prompts: Sequence[str], responses: Sequence[str], config: NgramConfig) -> Bags:
    """The hashed n-grams of B pairs."""
    rows: list[int] = []
    buckets: list[int] = []
    values: list[int] = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        counts = Counter(crc32(gram) % config.buckets for gram in _grams(response, config, "r"))
        if config.prompt:
            counts.update(crc32(gram) % config.buckets for gram in _grams(prompt, config, "p"))
        rows += [row] * len(counts)
        buckets += counts.keys()
        values += counts.values()
    weights = 1 + torch.tensor(values, dtype=torch.float32).log()
    return Bags(torch.tensor(rows, dtype=torch.long), torch.tensor(buckets, dtype=torch.long), weights, len(responses))


def weighted(found: Bags, idf: Tensor) -> Bags:
    """Values times the inverse document frequencies (buckets,), every row scaled to length 1."""
    values = found.values * idf[found.buckets]
    squares = torch.zeros(found.size).index_add_(0, found.rows, values.square())
    return found._replace(values=values / squares.sqrt().clamp_min(1e-12)[found.rows])


def inverse_frequencies(found: Bags, buckets: int) -> Tensor:
    """log((1 + rows) / (1 + rows with the bucket)) + 1, shape (buckets,); entries of a row are distinct buckets."""
    seen = torch.bincount(found.buckets, minlength=buckets).float()
    return ((1 + found.size) / (1 + seen)).log() + 1


def product(found: Bags, weight: Tensor) -> Tensor:
    """Each row's values times the weights (buckets,), shape (B,)."""
    return torch.zeros(found.size).index_add_(0, found.rows, found.values * weight[found.buckets])


def _grams(text: str, config: NgramConfig, field: str) -> Iterator[bytes]:
    """Every n-gram with the field and the kind that it stands for, so that they are hashed apart."""
    words = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if config.words:
        low, high = config.words
        for size in range(low, high + 1):
            for at in range(len(words) - size + 1):
                yield f"{field}w {' '.join(words[at : at + size])}".encode()
    if config.chars:
        low, high = config.chars
        for word in words:
            padded = f" {word} "
            for size in range(low, high + 1):
                for at in range(len(padded) - size + 1):
                    yield f"{field}c {padded[at : at + size]}".encode()
