"""The policy as the search sees it: a model that follows a tree, its tokenizer, and how to draw from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.rendering import inside
from ig_plugins.engine import Sampler, TreeModel
from ig_plugins.search.request import Request
from ig_plugins.search.text import Detokenizer


@dataclass(eq=False)
class Policy:
    """A language model whose answers are guarded.

    Attributes:
        tree: The model on token trees.
        tokenizer: Its tokenizer.
        stop_ids: Tokens that end an answer.
    """

    tree: TreeModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    detokenizer: Detokenizer = field(init=False)

    def __post_init__(self) -> None:
        self.detokenizer = Detokenizer(self.tokenizer)

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a text that stands inside an answer; control tokens in it are just characters."""
        return tuple(inside(self.tokenizer, text, trusted=False))

    def sampler(self, request: Request) -> Sampler:
        """How this request draws tokens."""
        search = request.search
        return Sampler(
            temperature=search.temperature,
            top_k=search.top_k,
            top_p=search.top_p,
            min_p=search.min_p,
            repetition_penalty=search.repetition_penalty,
            processors=request.processors,
        )
