"""The policy as the search sees it: something that samples blocks behind prefixes, and its tokenizer.

The search does not know where it samples. In this process `TreeModel` does it on a token tree; a policy that a server
runs is in `ig_plugins.remote`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.rendering import inside
from ig_plugins.engine import Block, Matcher, Sampler, TreeModel
from ig_plugins.search.config import SearchConfig
from ig_plugins.search.request import Request
from ig_plugins.search.text import Detokenizer


class PolicySession(Protocol):
    """The beams of B prompts, and the open block's lanes; `ig_plugins.engine.SamplingSession` is one."""

    @property
    def rows(self) -> int:
        """B."""

    def sample(
        self,
        parents: Tensor,
        *,
        samplers: Sequence[Sampler],
        uniforms: Tensor,
        max_tokens: Sequence[int] | Tensor,
        stop_ids: Collection[int],
        penalties: Sequence[Tensor | None] | None = None,
        histories: Sequence[Sequence[Sequence[int]]] | None = None,
        matchers: Sequence[Sequence[Matcher] | None] = (),
        on_step: Callable[[], None] | None = None,
        keep_states: bool = False,
    ) -> Block:
        """Opens a block and lets every lane grow from its beam; see `ig_plugins.engine.sample_block`.

        ``uniforms`` are all the randomness there is: what is drawn elsewhere is seeded by them. ``on_step`` is called
        again and again while the block is sampled, and ends it by raising.
        """

    def select(self, lanes: Tensor) -> None:
        """Closes the block: these lanes, shape (B, K), are the beams; -1 for none."""

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> None:
        """Adds rows of one beam each, between blocks."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, between blocks."""


class PolicyModel(Protocol):
    """What sessions are started on; `ig_plugins.engine.TreeModel` is one."""

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and answer together; None for no limit."""

    @property
    def context_note(self) -> str:
        """Why the context ends there."""

    @property
    def vocab_size(self) -> int:
        """V."""

    @property
    def hidden_size(self) -> int:
        """H of a block's states; 0 where there are none."""

    def prefill(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> PolicySession:
        """A session with one beam a prompt."""


@dataclass(eq=False)
class Policy:
    """A language model whose answers are guarded.

    Attributes:
        tree: Samples.
        tokenizer: Its tokenizer.
        stop_ids: Tokens that end an answer.
        remote: A server samples. Its searches wait for the network rather than for this machine.
    """

    tree: PolicyModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    detokenizer: Detokenizer = field(init=False)
    remote: ClassVar[bool] = False

    @property
    def grammars(self) -> bool:
        """Whether its answers can be held to a grammar while they are sampled."""
        return True

    def __post_init__(self) -> None:
        self.detokenizer = Detokenizer(self.tokenizer)

    @property
    def engine(self) -> TreeModel:
        """The model itself, for what reads its weights or states."""
        return cast("TreeModel", self.tree)

    def check(self, search: SearchConfig, processors: Sequence[Any] = ()) -> None:
        """Refuses settings that this policy cannot sample under; one in this process can all.

        Raises:
            ConfigurationError: Names the setting.
        """

    def standard(self, search: SearchConfig, *, asked: Collection[str] = ()) -> SearchConfig:
        """Search settings as they suit this policy, but for settings that somebody has ``asked`` for."""
        return search

    def first_block(self, request: Request) -> int:
        """Tokens of an answer's first block."""
        return request.search.block_tokens

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
