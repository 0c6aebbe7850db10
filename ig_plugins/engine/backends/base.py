"""What every way to follow a token tree has in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import LongTensor, Tensor

from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.tree import Packing, TokenTree


@dataclass(frozen=True)
class Sizes:
    """What a session is planned for; a guide for allocation, not a limit.

    Attributes:
        lanes: Lanes of a block.
        block: Tokens of a block.
        max_new: Tokens of the longest answer.
    """

    lanes: int
    block: int
    max_new: int


# Hidden states (M, H) and logits (M, V) of M tokens on the device, one on each of the same lanes at every call.
Stepper = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class TreeBackend(Protocol):
    """Stores a tree's keys and values and feeds new tokens to the model. The session keeps the tree itself."""

    name: ClassVar[str]

    @classmethod
    def prepare(cls, body: Body) -> None:
        """Make the model ready to be followed on this backend.

        Raises:
            ValueError: It cannot be; the message completes "the model is refused because".
        """

    def __init__(self, body: Body, sizes: Sizes) -> None: ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill the first rows; hidden states (B, H) and logits (B, V) at each prompt's last token."""

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Append rows, between blocks; returns what ``prefill`` does, for the new rows."""

    def fork(self, parents: Tensor) -> None:
        """Open a block; (B, L), on the host."""

    def forward(
        self, tree: TokenTree, tokens: Tensor, packing: Packing, keep: LongTensor
    ) -> tuple[Tensor, Tensor | None]:
        """Feed M packed tokens, shape (M,), on the host.

        Returns:
            Hidden states (M, H), and logits (n, V) of the kept tokens (n,).
        """

    def select(self, tree: TokenTree, lanes: Tensor) -> None:
        """Close the block, before the tree does; (B, K), on the host."""

    def rollback(self) -> None:
        """Drop the open block."""

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows; (B',), on the host."""

    def memory(self, tree: TokenTree) -> dict[str, int]:
        """Bytes of keys and values: prompt, beams, block, and all that is allocated."""


@runtime_checkable
class TrimmingBackend(TreeBackend, Protocol):
    """A backend that can take tokens back, so that tokens can be drafted and verified."""

    def trim(self, packing: Packing, kept: Tensor) -> None:
        """Take back the tokens that were fed last, but for the first ``kept`` (B, L) of every lane."""


@runtime_checkable
class DeviceBackend(TrimmingBackend, Protocol):
    """A backend whose steps are the same work every time, so that a block can run on the device without a wait."""

    def stepper(self, tree: TokenTree, packing: Packing, taken: Tensor, steps: int) -> Stepper:
        """What feeds a token on each packed lane of a fresh block, up to so many times.

        Every call is the same device work on the same tensors, and looks at none of them.

        Args:
            tree: With an open block that nothing was fed to.
            packing: A token on each of M lanes.
            taken: Calls so far, on the device, shape (1,); the caller counts.
            steps: Calls at most.
        """


def right_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, P), padded at the right with 0, and lengths (B,).

    Padding at the right needs no mask: causal attention never looks at what comes after a token.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.long)
    return ids.to(device), lengths.to(device)


def prefill(body: Body, prompts: Sequence[Sequence[int]], cache: object) -> tuple[Tensor, Tensor | None]:
    """Run right-padded prompts into a tree cache; the state at each one's last token: (B, H) and (B, V)."""
    ids, lengths = right_padded(prompts, body.device)
    rows = torch.arange(len(prompts), device=body.device)
    positions = torch.arange(ids.shape[1], device=body.device).expand(len(prompts), -1)
    hidden, logits, _ = body.run(ids, keep=(rows, lengths - 1), position_ids=positions, cache=cache, use_cache=True)
    return hidden[rows, lengths - 1], logits
