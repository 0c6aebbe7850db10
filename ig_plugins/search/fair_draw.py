"""Without a reward model: an answer that is a fair draw from the policy, given that it is safe.

Nothing ranks safe answers then, and taking the first one that ends would favour the shortest. So the search is a
particle filter for p(y | safe): beams and finished answers are particles, each standing for a share of the policy. A
block's lanes divide their beam's share; unsafe lanes lose theirs; K particles are drawn so that every share is kept in
expectation (Fearnhead and Clifford, On-line inference for hidden Markov models via particle filters, 2003, section 3);
and the answer is drawn by share in the end. Where nothing is unsafe that is exactly the policy; else it becomes
p(y | safe) as N and K grow. A hedged choice is drawn from the calmer half of the answers, and is no fair draw of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ig_plugins.search.lanes import Answer, Lanes, Row
from ig_plugins.search.scoring.base import Judgement
from ig_plugins.search.selection import Opened, answer_of, hedged, step_of
from ig_plugins.search.trajectory import Step


def resample(weights: Sequence[float], count: int, *, uniform: float) -> list[tuple[int, float]]:
    """Draws at most ``count`` of some particles so that each keeps its weight in expectation.

    Particles heavier than a threshold stay as they are; the others are drawn systematically, and weigh the threshold.

    Args:
        weights: Positive.
        count: How many may stay.
        uniform: In [0, 1), decides the draw.

    Returns:
        (index, weight) of those that stay.
    """
    if len(weights) <= count:
        return list(enumerate(weights))
    order = sorted(range(len(weights)), key=lambda index: weights[index], reverse=True)
    rest = sum(weights)
    kept = 0
    while weights[order[kept]] * (count - kept) >= rest:
        rest -= weights[order[kept]]
        kept += 1
        if kept == count:
            return [(index, weights[index]) for index in order[:kept]]
    threshold = rest / (count - kept)
    drawn = [(index, weights[index]) for index in order[:kept]]
    mark = uniform * threshold
    for index in sorted(order[kept:]):
        mark -= weights[index]
        if mark < 0:
            drawn.append((index, threshold))
            mark += threshold
    return drawn


def draw_particles(lanes: Lanes, judgement: Judgement, index: int, safe: Sequence[int]) -> Opened:
    """Draws the row's particles after a block, out of its safe lanes and the answers that wait.

    Returns:
        The lanes that go on. The row's finished answers are replaced.
    """
    row = lanes.rows[index]
    lanes_of = [int((lanes.parents[index, : lanes.stays] == place).sum()) for place in range(len(row.beams))]
    weights: dict[tuple[int, tuple[int, ...]], float] = {}
    first: dict[tuple[int, tuple[int, ...]], int] = {}
    for lane in safe:
        beam = int(lanes.parents[index, lane])
        key = (beam, lanes.block(index, lane))  # lanes that say the same are one particle
        weights[key] = weights.get(key, 0.0) + row.beams[beam].weight / lanes_of[beam]
        first.setdefault(key, lane)
    keys = list(weights)
    shares = [*(answer.step.weight for answer in row.finished), *weights.values()]
    total, waiting = sum(shares), len(row.finished)
    particles = resample([share / total for share in shares], row.beam_count, uniform=row.request.uniform())
    finished: list[Answer] = []
    opened: Opened = []
    for place, weight in particles:
        if place < waiting:
            row.finished[place].step.weight = weight
            finished.append(row.finished[place])
            continue
        lane = first[keys[place - waiting]]
        step = replace(step_of(lanes, judgement, (index, lane), safe=len(safe)), weight=weight)
        if lanes.ended[index, lane]:
            finished.append(answer_of(lanes, judgement, (index, lane), step))
        else:
            opened.append((lane, step))
    row.finished = finished
    return opened


def draw_within_max_lag(opened: Opened, row: Row) -> Opened:
    """As `selection.within_max_lag`: where particles left one another too long ago, one is drawn; those apart go."""
    level = row.blocks + 1 - row.request.search.max_lag
    steps = [step for _, step in opened] + [answer.step for answer in row.finished]
    if not opened or level < 1 or len({id(_at(step, level)) for step in steps}) == 1:
        return opened
    ancestor = _at(_drawn(steps, row), level)
    row.finished = [answer for answer in row.finished if answer.step.passes(ancestor)]
    return [(lane, step) for lane, step in opened if step.passes(ancestor)]


def draw_answer(row: Row) -> Answer | None:
    """One of the finished answers that `hedged` leaves, each by its share."""
    if not row.finished:
        return None
    step = _drawn([answer.step for answer in hedged(row)], row)
    return next(answer for answer in row.finished if answer.step is step)


def _drawn(steps: Sequence[Step], row: Row) -> Step:
    mark = row.request.uniform() * sum(step.weight for step in steps)
    for step in steps:
        mark -= step.weight
        if mark < 0:
            return step
    return steps[-1]


def _at(step: Step, level: int) -> Step:
    """The step's ancestor after so many blocks, or itself if it ended before."""
    path = step.path()
    return path[level - 1] if len(path) >= level else step
