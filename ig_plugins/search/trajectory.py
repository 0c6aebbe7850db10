"""Trajectories: the chain of blocks from the prompt to a beam or a finished answer, and how much of it has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ig_plugins.search.verifier import Trail


@dataclass(frozen=True)
class BlockCount:
    """What sampling one block took, all tries together; every lane of the block shares it."""

    index: int
    candidates: int
    safe: int
    tries: int
    tokens: int


@dataclass(eq=False)
class Step:
    """One block on the way from the prompt to a beam. Compared by identity: two lanes never share a step.

    Attributes:
        parent: The step before; None for the prompt.
        tokens: The block's tokens.
        count: The block's figures; None for the prompt.
        trail: The cost models' scores up to the step's end; None where they were not asked (with a critic).
        judged: The text that judges of texts read at the step's end, prefill included; None likewise.
        score: The candidate's score in the search, higher is better.
        weight: Without a reward model: the share of the policy that the step stands for, up to a common factor.
        mean_hidden: Mean of the policy's hidden states over the response so far, float32, shape (H,); None before its
            first token.
    """

    parent: Step | None = None
    tokens: tuple[int, ...] = ()
    count: BlockCount | None = None
    trail: Trail | None = None
    judged: str | None = None
    score: float = 0.0
    weight: float = 1.0
    mean_hidden: Tensor | None = field(default=None, repr=False)

    def path(self) -> list[Step]:
        """The steps from the first block to this one, the prompt left out."""
        steps: list[Step] = []
        step: Step | None = self
        while step is not None and step.parent is not None:
            steps.append(step)
            step = step.parent
        return steps[::-1]

    def passes(self, other: Step) -> bool:
        """Whether another step is on the way to this one, or this one itself."""
        step: Step | None = self
        while step is not None:
            if step is other:
                return True
            step = step.parent
        return False

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


@dataclass(frozen=True)
class Border:
    """Up to where an answer has left, or may leave: exactly this text, judged.

    Attributes:
        step: The last step that all answers to come share; the border lies at its end or before.
        tokens: Tokens of the answer whose text leaves.
        text: That text, which is what the judges of texts read behind a prefill.
        trail: The cost models' scores up to there.
    """

    step: Step
    tokens: int
    text: str
    trail: Trail


def common_ancestor(steps: Sequence[Step]) -> Step:
    """The last step that all given steps have on their path: text up to there can no longer change."""
    paths = [[step.root(), *step.path()] for step in steps]
    ancestor = paths[0][0]
    for level in zip(*paths, strict=False):
        if any(step is not level[0] for step in level):
            break
        ancestor = level[0]
    return ancestor
