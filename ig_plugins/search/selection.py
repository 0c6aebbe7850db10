"""From judged lanes to beams and answers: which lanes go on, which answers wait, and which one is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ig_plugins.engine import Block
from ig_plugins.search.lanes import Answer, Cut, Key, Lanes, Row
from ig_plugins.search.scoring.base import Judgement
from ig_plugins.search.text import REPLACEMENT, Whole, first_stop
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


def cut_at_stop_strings(lanes: Lanes, row: int) -> None:
    """Ends lanes in which a stop string or a stop token of the request's own appeared, before it.

    What is left has tokens of its own where the cut falls inside one: those that the text is encoded to. Where a
    vocabulary cannot write it so, the answer ends with the token before.
    """
    request = lanes.rows[row].request
    reach = max(map(len, request.stop), default=0)
    for lane in lanes.lengths[row].nonzero().flatten().tolist():
        ids = [*lanes.beam(row, lane).token_ids(), *lanes.block(row, lane)]
        before = len(lanes.beam(row, lane))
        token = next((at for at in range(before, len(ids)) if ids[at] in request.stop_ids), None)
        if token is not None:
            ids = ids[: token + 1]
            lanes.lengths[row, lane] = len(ids) - before
            lanes.ended[row, lane], lanes.natural[row, lane] = True, False
            lanes.cuts[row, lane] = _cut(lanes, row, ids[:-1], lanes.detokenizer.answer(request, ids[:-1]))
        tail = lanes.detokenizer.tail([*request.prefill_ids, *ids], new=len(ids) - before, reach=reach)
        if first_stop(tail, request.stop) is None:  # and there was none in the blocks before
            continue
        text = lanes.answer(row, lane)
        at = first_stop(text, request.stop)
        if at is None:
            continue
        covering = next(n for n in range(1, len(ids) + 1) if len(lanes.detokenizer.answer(request, ids[:n])) > at)
        lanes.lengths[row, lane] = max(covering - before, 1)
        lanes.ended[row, lane], lanes.natural[row, lane] = True, False
        lanes.cuts[row, lane] = _cut(lanes, row, ids[: covering - 1], text[:at])


def cut_half_characters(lanes: Lanes, row: int) -> None:
    """Ends answers that run out of room inside a character before it: half of it would show as a replacement."""
    request = lanes.rows[row].request
    for lane in (lanes.ended[row] & ~lanes.natural[row]).nonzero().flatten().tolist():
        text = lanes.answer(row, lane)
        if (row, lane) in lanes.cuts or not text.endswith(REPLACEMENT):
            continue
        ids = lanes.token_ids(row, lane)
        whole = lanes.detokenizer.whole_characters(request, ids)
        before = len(lanes.beam(row, lane))
        if whole > before:
            lanes.lengths[row, lane] = whole - before
        else:  # it began in an earlier block
            left = lanes.detokenizer.answer(request, ids[:whole])
            lanes.cuts[row, lane] = replace(_cut(lanes, row, ids[:whole], left), reason="length")


def _cut(lanes: Lanes, row: int, ids: Sequence[int], text: str) -> Cut:
    """What is left of an answer.

    Args:
        lanes: The open block.
        row: Whose answer it is.
        ids: The whole tokens before the cut.
        text: The text before the cut.
    """
    detokenizer, request = lanes.detokenizer, lanes.rows[row].request
    left = tuple(ids)
    if detokenizer.answer(request, left) != text:
        encoded = lanes.encode(text)
        if detokenizer.answer(request, encoded) == text:
            left = encoded
        while not text.startswith(shown := detokenizer.answer(request, left)):
            left = left[:-1]  # a character or a run of bytes was cut
        text = shown
    return Cut(text, Whole(row, request, detokenizer.judged(request, left, text), left))


def retry_penalty(lanes: Lanes, index: int, vocab_size: int) -> Tensor | None:
    """Shape (T, V): at block position i, the penalty on every token that a failed candidate used at i; None for 0."""
    row = lanes.rows[index]
    if row.request.search.retry_penalty == 0:
        return None
    penalty = torch.zeros(row.request.search.block_tokens, vocab_size)
    for lane in lanes.lengths[index].nonzero().flatten().tolist():
        for position, token in enumerate(lanes.block(index, lane)):
            penalty[position, token] = row.request.search.retry_penalty
    return penalty if row.retry_penalty is None else torch.maximum(penalty, row.retry_penalty)


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


def best_answer(row: Row) -> Answer | None:
    """The answer to give: among those that fit, the highest score, or the hedged choice.

    Hedged: among the half of the verified answers that leave most of the budget unspent. The most rewarded of many
    answers that just pass a learned cost model is where that model errs most (Wachi et al., safety hacking).
    """
    pool = row.fitting
    if row.request.search.selection == "hedged" and len(pool) > 2:
        pool = sorted(pool, key=lambda answer: answer.slack, reverse=True)[: (len(pool) + 1) // 2]
    return max(pool, key=lambda answer: answer.score, default=None)
