"""Searches of any shape: rows of any lengths join and leave, with one beam or several; every state is the full one."""

import random

import pytest

STEPS = 14


def walked(walk, chance):
    """Take random turns: rows join or leave between blocks; a block grows lanes and keeps some, or is rolled back."""
    for _ in range(STEPS):
        rows, turn = len(walk.beams), chance.random()
        if rows == 0 or (turn < 0.2 and rows < 4):
            walk.add_rows(prompts(chance))
        elif turn < 0.45 and rows > 1:
            walk.keep_rows(sorted(chance.sample(range(rows), chance.randint(1, rows - 1))))
        else:
            block(walk, chance)
        walk.check()


def prompts(chance):
    return [[chance.randint(3, 60) for _ in range(chance.choice([1, 3, 9, 14]))] for _ in range(chance.randint(1, 2))]


def block(walk, chance):
    beams = [[place for place, ids in enumerate(row) if ids is not None] for row in walk.beams]
    width = chance.randint(1, 4)
    walk.fork([[chance.choice(row) for _ in range(width)] for row in beams])
    going = [[1] * width for _ in beams]
    for _ in range(chance.randint(0, 3)):
        going = [[flag and int(chance.random() < 0.8) for flag in row] for row in going]
        if any(map(any, going)):
            walk.extend(going)
    if chance.random() < 0.5:
        walk.append([[chance.choice([0, 1, 2]) for _ in range(width)] for _ in beams[:-1]] + [[1] * width])
    walk.check()
    if chance.random() < 0.15:
        walk.rollback()
        return
    kept = chance.choice([1, 1, 2, 3])
    walk.select(
        [
            [chance.randrange(width) for _ in range(count)] + [-1] * (kept - count)
            for count in counts(chance, beams, kept)
        ]
    )


def counts(chance, rows, kept):
    """Beams of each row; one row has as many as there is room for."""
    return [kept, *(chance.randint(1, kept) for _ in rows[1:])]


@pytest.mark.parametrize("path", ["segments", "masked", "portable"])
@pytest.mark.parametrize("seed", range(6))
def test_every_state_is_that_of_the_full_forward(make_model, make_walk, path, seed):
    chance = random.Random(seed)
    walk = make_walk(make_model("llama"), prompts(chance), backend=path, block=8, max_new=60, seed=seed)
    walked(walk, chance)


@pytest.mark.parametrize("path", ["segments", "masked", "portable"])
def test_the_last_row_does_not_see_where_a_longer_prompt_was(make_model, make_walk, path):
    """Its row has as many slots as that prompt had tokens; with one beam there is nothing else to tell apart."""
    walk = make_walk(make_model("llama"), [list(range(3, 20)), [30, 31, 32]], backend=path)
    walk.keep_rows([1])
    for _ in range(2):
        walk.fork([[0, 0]])
        walk.extend([[1, 1]])
        walk.append([[2, 0]])
        walk.check()
        walk.select([[0]])
        walk.check()
    walk.add_rows([[7] * 20])
    walk.fork([[0], [0]])
    walk.extend([[1], [1]])
    walk.check()
