"""The slot map against texts: every slot holds a token, and what a lane sees must be exactly its text."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ig_plugins.engine.tree import SlotMap, TokenTree


class Shadow:
    """A tree, its slots, a tensor of tokens moved as a cache would be, and the plain text of every beam and lane."""

    def __init__(self, lengths):
        self.next_token = 0
        self.tree, self.slots = TokenTree(lengths), SlotMap(torch.tensor(lengths))
        self.memory = torch.full((len(lengths), self.slots.used), -1)
        self.beams = []
        for row, length in enumerate(lengths):
            self.beams.append([self.write(row, slice(0, length), length)])

    def write(self, row, where, count):
        new = list(range(self.next_token, self.next_token + count))
        self.next_token += count
        self.memory[row, where] = torch.tensor(new, dtype=torch.long)
        return new

    def fork(self, parents):
        self.tree.fork(parents)
        self.slots.fork(parents)
        self.lanes = [[list(self.beams[row][p]) if p >= 0 else None for p in many] for row, many in enumerate(parents)]

    def grow(self, counts):
        packing = self.tree.pack(counts)
        if not len(packing):
            return
        start = self.slots.used
        sees, positions = self.slots.place(packing, self.tree.depths(packing))
        self.tree.grow(packing)
        self.memory = torch.cat([self.memory[:, :start], torch.full((self.tree.rows, packing.width), -1)], dim=1)
        for row, lane, column in zip(
            packing.rows.tolist(), packing.lanes.tolist(), packing.columns.tolist(), strict=True
        ):
            self.lanes[row][lane] += self.write(row, slice(start + column, start + column + 1), 1)
            seen = self.memory[row, sees[row, column]].tolist()
            assert sorted(seen) == sorted(self.lanes[row][lane])
            assert positions[row, column] == len(self.lanes[row][lane]) - 1

    def select(self, lanes):
        self.tree.select(lanes)
        source = self.slots.select(lanes)
        start = self.slots.prompt
        self.memory = torch.cat([self.memory[:, :start], self.memory.gather(1, source)], dim=1)
        self.beams = [[self.lanes[row][n] if n >= 0 else None for n in many] for row, many in enumerate(lanes.tolist())]
        self.check()

    def keep_rows(self, rows):
        index = torch.tensor(rows)
        self.tree.keep_rows(index)
        slots = self.slots.keep_rows(index)
        self.memory = self.memory[index] if slots is None else self.memory[index][:, slots]
        self.beams = [self.beams[row] for row in rows]
        self.check()

    def check(self):
        assert self.slots.beams.flatten(0, 1).any(dim=0).all()
        for row, many in enumerate(self.beams):
            unique = set()
            for beam, text in enumerate(many):
                sees = self.slots.beams[row, beam]
                assert sorted(self.memory[row, sees].tolist()) == sorted(text or [])
                for slot in sees.nonzero().flatten():
                    assert text[self.slots.positions[row, slot]] == self.memory[row, slot]
                unique |= set(text or [])
            assert int(self.slots.beams[row].any(0).sum()) == len(unique)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_lanes_see_their_own_text_and_only_unique_tokens_stay_whoever_leaves(data):
    def pick(low, high):
        return data.draw(st.integers(low, high))

    shadow = Shadow([pick(1, 5) for _ in range(pick(1, 3))])
    for _ in range(pick(1, 3)):
        B, L, K = shadow.tree.rows, pick(1, 4), pick(1, 3)
        beams = [[k for k, text in enumerate(many) if text is not None] for many in shadow.beams]
        shadow.fork(torch.tensor([[data.draw(st.sampled_from(beams[b])) for _ in range(L)] for b in range(B)]))
        for _ in range(pick(0, 3)):
            shadow.grow(torch.tensor([[pick(0, 2) for _ in range(L)] for _ in range(B)]))
        if pick(0, 3) == 0:
            shadow.tree.rollback()
            shadow.slots.rollback()
            shadow.memory = shadow.memory[:, : shadow.slots.used]
            shadow.check()
            continue
        chosen = torch.tensor([[pick(0 if k == 0 else -1, L - 1) for k in range(K)] for _ in range(B)])
        shadow.select(chosen)
        if pick(0, 2) == 0:
            shadow.keep_rows([row for row in range(B) if row == B - 1 or pick(0, 1)])


def test_the_slots_of_losing_lanes_are_reused():
    shadow = Shadow([3])
    for _ in range(5):
        shadow.fork(torch.zeros(1, 8, dtype=torch.long))
        shadow.grow(torch.full((1, 8), 4))
        assert shadow.slots.used == shadow.slots.committed + 32
        shadow.select(torch.tensor([[5]]))
    assert shadow.slots.used == 3 + 5 * 4
