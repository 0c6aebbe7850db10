"""From judged lanes to beams and answers: which lanes go on, which answers wait, and which one is given."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ig_plugins.engine import Block
from ig_plugins.search.lanes import Answer, Key, Lanes, Row
from ig_plugins.search.scoring.base import Judgement
from ig_plugins.search.trajectory import Step

Opened = list[tuple[int, Step]]
"""(lane, its step) of the lanes that become beams, best first."""


def spread(row: Row) -> list[int]:
    """N lanes over the open beams, as evenly as it goes, the better beams first."""
    beams = len(row.beams)
    return [lane % beams for lane in range(row.lanes)]


def mean_states(rows: Sequence[Row], parents: Tensor, block: Block) -> Tensor:
    """The mean of the policy's hidden states over every lane's response, shape (B, L, H); zeros where it has none."""
    total, lengths = block.total.clone(), block.lengths.clone()
    for index, row in enumerate(rows):
        for place, beam in enumerate(row.beams):
            if beam.mean_hidden is not None:
                mine = parents[index] == place
                total[index, mine.to(total.device)] += len(beam) * beam.mean_hidden
                lengths[index, mine] += len(beam)
    return total / lengths.clamp(min=1).unsqueeze(2).to(total.device)


def refuse_again(lanes: Lanes, judgement: Judgement) -> None:
    """Lanes are not safe whose text begins with one that the judges refused to let leave, before a restart."""
    for index, row in enumerate(lanes.rows):
        if not row.refused_texts:
            continue
        for lane in judgement.safe[index].nonzero().flatten().tolist():
            if row.refuses(lanes.answer(index, lane)):
                judgement.safe[index, lane] = judgement.confident[index, lane] = False


def step_of(lanes: Lanes, judgement: Judgement, key: Key, *, safe: int) -> Step:
    """A lane as a step of a trajectory; ``safe`` counts the safe lanes of its block."""
    return Step(
        parent=lanes.beam(*key),
        tokens=lanes.block(*key),
        count=lanes.rows[key[0]].count(safe=safe),
        trail=judgement.trails.get(key),
        judged=lanes.text(*key).text if key in judgement.trails else None,
        score=float(judgement.score[key]),
        mean_hidden=lanes.mean_hidden[key].clone(),
    )


def answer_of(lanes: Lanes, judgement: Judgement, key: Key, step: Step) -> Answer:
    """A verified finished lane as an answer; among answers the reward counts, without the discount for length."""
    stopped = lanes.cuts[key].reason == "stop" if key in lanes.cuts else bool(lanes.natural[key])
    reply = lanes.reply(key)
    grammar, cut_off = lanes.rows[key[0]].request.grammar, False
    if grammar is not None and not stopped:  # out of tokens; it may be whole all the same
        read = grammar.after(lanes.token_ids(*key))
        stopped, cut_off = read.ended, not read.complete
    return Answer(
        step=step,
        score=judgement.rewards.get(key, step.score),
        reward=judgement.rewards.get(key),
        reason="stop" if stopped else "length",
        text=lanes.answer(*key),
        token_ids=lanes.token_ids(*key),
        trail=judgement.trails[key],
        reply=reply,
        fits=not cut_off and not (reply and reply.malformed),
    )


def within_max_lag(opened: Opened, row: Row) -> Opened:
    """Keeps the search within ``max_lag``: what left the best beam's path more than so many blocks ago is given up.

    That holds for finished answers as well as for beams: an answer that ended early elsewhere would hold back a
    stream for as long as it might still be given. Either it is given now, being worth no less than the best beam
    promises, or never.

    Returns:
        The beams that go on; none if a finished answer is to be given now.
    """
    path = opened[0][1].path() if opened else []
    lag = row.request.search.max_lag
    if len(path) <= lag:
        return opened
    ancestor = path[-1 - lag]
    aside = [answer for answer in contenders(row) if not answer.step.passes(ancestor)]
    if any(answer.step.score >= opened[0][1].score for answer in aside):  # both scores are discounted
        return []
    row.finished = [answer for answer in row.finished if answer.step.passes(ancestor)]
    return [(lane, step) for lane, step in opened if step.passes(ancestor)]


def contenders(row: Row) -> list[Answer]:
    """The finished answers that may still be given: the best one, or any of them if the choice is hedged."""
    if row.request.search.selection == "hedged":
        return row.fitting
    best = best_answer(row)
    return [best] if best else []


def hedged(row: Row) -> list[Answer]:
    """The finished answers of which one is given: those that fit, or if the choice is hedged, the calmer half of them.

    That is the half that leaves most of the budget unspent, and those that leave as much. The most rewarded of many
    answers that just pass a learned cost model is where that model errs most (Wachi et al., safety hacking); of a fair
    draw those that just pass are as well.
    """
    pool = row.fitting
    if row.request.search.selection != "hedged" or len(pool) <= 2:
        return pool
    least = sorted((answer.slack for answer in pool), reverse=True)[(len(pool) + 1) // 2 - 1]
    return [answer for answer in pool if answer.slack >= least]


def best_answer(row: Row) -> Answer | None:
    """The answer to give: the one with the highest score, of those that `hedged` leaves."""
    return max(hedged(row), key=lambda answer: answer.score, default=None)
