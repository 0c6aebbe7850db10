"""The portable backend: every beam and lane has its own ordinary cache. Slow, and right for any model that has one.

For models that cannot follow a tree: recurrent and hybrid layers, position biases such as ALiBi. Prompts are prefilled
one by one, because a recurrent state at a padded prompt's end has seen the padding; tokens are fed one at a time,
because many recurrent layers take several tokens only at the start of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import LongTensor, Tensor

from ig_plugins.engine.backends.base import Sizes
from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.caches import cache_tensors, fork_cache
from ig_plugins.engine.tree import Packing, TokenTree

Member = tuple[int, int]  # row, and beam or lane


@dataclass
class _Group:
    """Sequences of one length in one cache; the order of the members is the cache's."""

    members: list[Member]
    cache: Any

    def pick(self, wanted: Sequence[tuple[Member, Member]]) -> "_Group | None":
        """A copy that holds, for each pair (old, new), the sequence of ``old`` as ``new``; None if none is here."""
        here = [(self.members.index(old), new) for old, new in wanted if old in self.members]
        if not here:
            return None
        index, members = zip(*here, strict=True)
        return _Group(list(members), fork_cache(self.cache, torch.tensor(index)))


class PerSequenceBackend:
    """See the module."""

    name: ClassVar[str] = "portable"

    @classmethod
    def prepare(cls, body: Body) -> None:
        """Nothing: an ordinary cache is all it takes."""

    def __init__(self, body: Body, sizes: Sizes) -> None:
        self.body = body
        self.beams: list[_Group] = []
        self.lanes: list[_Group] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill the first rows."""
        return self.add_rows(prompts)

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Prefill new rows, one by one."""
        start = len({row for group in self.beams for row, _ in group.members})
        states = []
        for row, prompt in enumerate(prompts, start):
            ids = torch.tensor([list(prompt)], device=self.body.device)
            hidden, logits, cache = self._run(ids, None)
            self.beams.append(_Group([(row, 0)], cache))
            states.append((hidden, logits))
        return _stacked(states)

    def fork(self, parents: Tensor) -> None:
        """Give every lane a copy of its beam's cache."""
        pairs = [
            ((row, beam), (row, lane)) for row, many in enumerate(parents.tolist()) for lane, beam in enumerate(many)
        ]
        self.lanes = _picked(self.beams, pairs)

    def forward(
        self, tree: TokenTree, tokens: Tensor, packing: Packing, keep: LongTensor
    ) -> tuple[Tensor, Tensor | None]:
        """Feed the tokens step by step, to all lanes of a group at once."""
        where = list(zip(packing.rows.tolist(), packing.lanes.tolist(), packing.steps.tolist(), strict=True))
        place = {at: index for index, at in enumerate(where)}
        tokens = tokens.to(self.body.device)
        states: list[Any] = [None] * len(where)
        for step in range(int(packing.steps.max()) + 1):
            self.lanes = [part for group in self.lanes for part in _split(group, place, step)]
            for group in self.lanes:
                index = [place[(*member, step)] for member in group.members if (*member, step) in place]
                if not index:
                    continue
                hidden, logits, group.cache = self._run(tokens[index].unsqueeze(1), group.cache)
                for i, at in enumerate(index):
                    states[at] = hidden[i : i + 1], None if logits is None else logits[i : i + 1]
        hidden, logits = _stacked(states)
        return hidden, None if logits is None else logits[keep.to(logits.device)]

    def select(self, tree: TokenTree, lanes: Tensor) -> None:
        """Let the named lanes' caches be the beams'."""
        pairs = [
            ((row, lane), (row, beam)) for row, many in enumerate(lanes.tolist()) for beam, lane in enumerate(many)
        ]
        self.beams = _picked(self.lanes, pairs)
        self.lanes = []

    def rollback(self) -> None:
        """Drop the lanes' caches."""
        self.lanes = []

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows."""
        place = {old: new for new, old in enumerate(rows.tolist())}
        members = [member for group in self.beams for member in group.members if member[0] in place]
        self.beams = _picked(self.beams, [((row, beam), (place[row], beam)) for row, beam in members])

    def memory(self, tree: TokenTree) -> dict[str, int]:
        """Bytes of all caches. Nothing is shared here: the beams' and lanes' bytes hold their prompts again."""
        beams, block = (
            sum(held.nbytes for group in groups for held in cache_tensors(group.cache))
            for groups in (self.beams, self.lanes)
        )
        return {"prompt": 0, "beams": beams, "block": block, "allocated": beams + block}

    def _run(self, ids: Tensor, cache: Any) -> tuple[Tensor, Tensor | None, Any]:
        """State after the last of (n, T) tokens: hidden (n, H), logits (n, V), and the cache."""
        keep = torch.arange(len(ids), device=ids.device), torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
        hidden, logits, output = self.body.run(ids, keep=keep, cache=cache, use_cache=True)
        if output.get(self.body.cache_name) is None:
            raise ValueError("it returns no cache")
        return hidden[:, -1], logits, output[self.body.cache_name]


def _picked(groups: Sequence[_Group], pairs: Sequence[tuple[Member, Member]]) -> list[_Group]:
    return [part for group in groups if (part := group.pick(pairs)) is not None]


def _split(group: _Group, place: dict[tuple[int, int, int], int], step: int) -> list[_Group]:
    """The group, or two of which one grows at this step and the other does not."""
    growing = [(member, member) for member in group.members if (*member, step) in place]
    waiting = [(member, member) for member in group.members if (*member, step) not in place]
    return _picked([group], growing) + _picked([group], waiting) if growing and waiting else [group]


def _stacked(states: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Hidden states (n, H) and logits (n, V) out of single ones."""
    logits = [one for _, one in states if one is not None]
    return torch.cat([hidden for hidden, _ in states]), torch.cat(logits) if logits else None
