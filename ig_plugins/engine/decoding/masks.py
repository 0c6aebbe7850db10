"""Which tokens a grammar allows at each lane of an open block.

What is allowed is a function of the tokens so far. So a state is made from its predecessor and never changed: nothing
has to be forked, selected or rolled back with the lanes, and a try that failed leaves no trace.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import BoolTensor, Tensor

Key = tuple[int, int, tuple[int, ...]]
"""(row, beam, the block's tokens so far)"""


class Matcher(Protocol):
    """A grammar that has read the start of an answer."""

    def after(self, tokens: Sequence[int]) -> "Matcher":
        """The same with these tokens read too; it must allow them."""

    def allowed(self, scores: Tensor) -> bytes | None:
        """One bit a token of the vocabulary, lowest first: whether it may come next; None where all may.

        Args:
            scores: The policy's logits there, shape (V,), for a grammar that looks at the likely tokens only.
        """

    @property
    def idle(self) -> bool:
        """Whether all tokens may come next, whatever the scores."""

    @property
    def complete(self) -> bool:
        """Whether what was read is a whole answer."""

    @property
    def ended(self) -> bool:
        """Whether it is one and nothing may follow."""


Matchers = Sequence[Sequence[Matcher] | None]
"""For each row None, or one for each of its beams."""


class Masks:
    """The grammars of an open block.

    Args:
        beams: What each beam's answer has read.
    """

    def __init__(self, beams: Matchers) -> None:
        self._beams = beams
        self._states: dict[Key, Matcher] = {}

    def __bool__(self) -> bool:
        return any(row is not None for row in self._beams)

    @property
    def idle(self) -> bool:
        """Whether nothing is masked yet, so that lanes may run ahead until something is."""
        return all(each.idle for row in self._beams for each in row or ())

    def stayed_idle(self, parents: Tensor, tokens: Tensor) -> bool:
        """Whether no draw of a block would have been masked.

        Args:
            parents: Beam of each lane, shape (B, L).
            tokens: What they drew without a mask, -1 behind a lane's end, shape (B, L, T).
        """
        for row, own in enumerate(self._beams):
            said = [] if own is None else set(zip(parents[row].tolist(), map(tuple, tokens[row].tolist()), strict=True))
            for beam, lane in said:
                state = own[beam]  # type: ignore[index]
                for token in lane:
                    if token < 0:
                        break
                    if not state.idle:
                        return False
                    state = state.after((token,))
        return True

    def first(self, rows: Tensor, beams: Tensor, like: Tensor) -> BoolTensor | None:
        """What R beams allow, in the shape of their logits (R, V); None if they have no grammar."""
        keys: list[Key] = [(row, beam, ()) for row, beam in zip(rows.tolist(), beams.tolist(), strict=True)]
        for key in keys:
            if (own := self._beams[key[0]]) is not None:
                self._states[key] = own[key[1]]
        return self._mask(keys, like)

    def next(self, rows: Tensor, beams: Tensor, tokens: Tensor, like: Tensor) -> BoolTensor | None:
        """What R lanes allow after the block's tokens so far (R, t), which grew by one since they were asked last."""
        if all(self._beams[row] is None for row in rows.tolist()):
            return None
        said = zip(rows.tolist(), beams.tolist(), tokens.tolist(), strict=True)
        keys: list[Key] = [(row, beam, tuple(ids)) for row, beam, ids in said]
        for row, beam, ids in keys:
            if self._beams[row] is not None:
                self._states[row, beam, ids] = self._states[row, beam, ids[:-1]].after(ids[-1:])
        return self._mask(keys, like)

    def forget(self, step: int) -> None:
        """Drop the states of lanes that have said fewer tokens than this; nobody grows from them any more."""
        self._states = {key: state for key, state in self._states.items() if len(key[2]) >= step}

    def _mask(self, keys: Sequence[Key], like: Tensor) -> BoolTensor | None:
        found = [self._states.get(key) for key in keys]
        masks = [None if state is None else state.allowed(at) for state, at in zip(found, like, strict=True)]
        if all(mask is None for mask in masks):
            return None
        V = like.shape[-1]
        everything = b"\xff" * -(-V // 8)
        packed = [everything if mask is None else mask[: len(everything)] for mask in masks]
        bits = np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(len(packed), -1)
        mask = np.unpackbits(bits, axis=1, count=V, bitorder="little")
        return torch.from_numpy(mask).view(torch.bool).to(like.device)  # type: ignore[return-value]


__all__ = ["Masks", "Matcher", "Matchers"]
