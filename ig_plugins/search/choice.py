"""From judged lanes to beams and answers: spreading, cutting at stop strings, settling, choosing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ig_plugins.engine import Block
from ig_plugins.search.lanes import Answer, Key, Lanes, Row
from ig_plugins.search.path import Measure, Step
from ig_plugins.search.scoring import Judgement, last_measured
from ig_plugins.search.text import first_stop


def spread(row: Row) -> list[int]:
    """N lanes over the open beams, as evenly as it goes, the better beams first."""
    beams = len(row.beams)
    return [lane % beams for lane in range(row.lanes)]


def mean_states(rows: Sequence[Row], parents: Tensor, block: Block) -> Tensor:
    """The mean of the policy's hidden states over every lane's response, shape (B, L, H); zeros where it has none."""
    total, lengths = block.total.clone(), block.lengths.clone()
    for index, row in enumerate(rows):
        for place, beam in enumerate(row.beams):
            if beam.said is not None:
                mine = parents[index] == place
                total[index, mine.to(total.device)] += len(beam) * beam.said
                lengths[index, mine] += len(beam)
    return total / lengths.clamp(min=1).unsqueeze(2).to(total.device)


def settle(opened: list[tuple[int, Step]], row: Row) -> list[tuple[int, Step]]:
    """Drops beams that left the best beam's path more than ``max_lag`` blocks ago, so that streams move on."""
    if not opened:
        return opened
    path = opened[0][1].path()
    if len(path) <= row.request.search.max_lag:
        return opened
    settled = path[-1 - row.request.search.max_lag]
    return [(lane, step) for lane, step in opened if any(mine is settled for mine in step.path())]


def cut_at_stop_strings(lanes: Lanes, row: int) -> None:
    """Ends lanes in which a stop string appeared, before it."""
    request = lanes.rows[row].request
    reach = max(map(len, request.stop), default=0)
    for lane in lanes.lengths[row].nonzero().flatten().tolist():
        ids = [*lanes.beam(row, lane).token_ids(), *lanes.block(row, lane)]
        before = len(lanes.beam(row, lane))
        tail = lanes.detokenizer.tail([*request.prefill_ids, *ids], new=len(ids) - before, reach=reach)
        if first_stop(tail, request.stop) is None:  # and there was none in the blocks before
            continue
        text = lanes.answer(row, lane)
        at = first_stop(text, request.stop)
        if at is None:
            continue
        lengths = range(before + 1, len(ids) + 1)
        covering = next(n for n in lengths if len(lanes.detokenizer.answer(request, ids[:n])) > at)
        lanes.lengths[row, lane] = covering - before
        lanes.ended[row, lane], lanes.natural[row, lane] = True, False
        lanes.cuts[row, lane] = text[:at]


def retry_penalty(lanes: Lanes, index: int, vocab_size: int) -> Tensor:
    """Shape (T, V): at block position i, the penalty on every token that a failed candidate used at i."""
    row = lanes.rows[index]
    penalty = torch.zeros(row.request.search.block_tokens, vocab_size)
    for lane in lanes.lengths[index].nonzero().flatten().tolist():
        for position, token in enumerate(lanes.block(index, lane)):
            penalty[position, token] = row.request.search.retry_penalty
    return penalty if row.retry_penalty is None else torch.maximum(penalty, row.retry_penalty)


def enter(measures: Sequence[Measure | None], step: Step) -> None:
    """Writes measures into the last steps of a path, the step itself last."""
    for measure in reversed(measures):
        if measure is not None:
            step.measure = measure
        if step.parent is None:
            break
        step = step.parent


def answer_of(lanes: Lanes, judgement: Judgement, key: Key, step: Step) -> Answer:
    """A verified finished lane as an answer; among answers the reward counts, without the discount for length."""
    stopped = bool(lanes.natural[key]) or key in lanes.cuts
    return Answer(
        step=step,
        score=judgement.rewards.get(key, step.score),
        reward=judgement.rewards.get(key),
        reason="stop" if stopped else "length",
        text=lanes.answer(*key),
        slack=min(last_measured(step).state),
    )


def contenders(row: Row) -> list[Step]:
    """The finished answers that may still be given: the best one, or any of them if the choice is hedged."""
    if row.request.search.selection == "hedged":
        return [answer.step for answer in row.finished]
    best = best_answer(row)
    return [best.step] if best else []


def best_answer(row: Row) -> Answer | None:
    """The answer to give: the highest score, or the hedged choice.

    Hedged: among the half of the verified answers that leave most of the budget unspent. The most rewarded of many
    answers that just pass a learned cost model is where that model errs most (Wachi et al., safety hacking).
    """
    pool = row.finished
    if row.request.search.selection == "hedged" and len(pool) > 2:
        pool = sorted(pool, key=lambda answer: answer.slack, reverse=True)[: (len(pool) + 1) // 2]
    return max(pool, key=lambda answer: answer.score, default=None)
