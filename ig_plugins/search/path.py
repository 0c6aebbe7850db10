"""The steps of an answer in the making: a chain of blocks from the prompt to a beam or a finished answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

State = tuple[float, ...]


@dataclass(frozen=True)
class BlockCount:
    """What sampling one block took, all tries together; every lane of the block shares it."""

    index: int
    candidates: int
    safe: int
    tries: int
    tokens: int


@dataclass(frozen=True)
class Measure:
    """What the cost models say of one step, one entry a cost model.

    Attributes:
        spent: Cumulative accounting: the sum of the step's costs; worst: the highest score within it.
        state: The safety state z after the step.
    """

    spent: State
    state: State


@dataclass(eq=False)
class Step:
    """One block on the way from the prompt to a beam. Compared by identity: two lanes never share a step.

    Attributes:
        parent: The step before; None for the prompt.
        tokens: The block's tokens.
        count: The block's figures; None for the prompt.
        measure: What the cost models said; None until they were asked.
        score: The candidate's score in the search, higher is better.
        said: Mean of the policy's hidden states over the response so far, float32, shape (H,); None before its first
            token.
    """

    parent: Step | None = None
    tokens: tuple[int, ...] = ()
    count: BlockCount | None = None
    measure: Measure | None = None
    score: float = 0.0
    said: Tensor | None = field(default=None, repr=False)

    def path(self) -> list[Step]:
        """The steps from the first block to this one, the prompt left out."""
        steps: list[Step] = []
        step: Step | None = self
        while step is not None and step.parent is not None:
            steps.append(step)
            step = step.parent
        return steps[::-1]

    def token_ids(self) -> list[int]:
        """All response tokens up to the end of this step."""
        return [token for step in self.path() for token in step.tokens]

    def root(self) -> Step:
        """The prompt's step."""
        step = self
        while step.parent is not None:
            step = step.parent
        return step

    def __len__(self) -> int:
        return sum(len(step.tokens) for step in self.path())


def common_ancestor(steps: Sequence[Step]) -> Step:
    """The last step that all given steps have on their path: text up to there can no longer change."""
    paths = [[step.root(), *step.path()] for step in steps]
    ancestor = paths[0][0]
    for level in zip(*paths, strict=False):
        if any(step is not level[0] for step in level):
            break
        ancestor = level[0]
    return ancestor
