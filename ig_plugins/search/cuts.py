"""Where lanes end before their last token: at a stop string, at a stop token, and inside a character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ig_plugins.search.lanes import Cut, Lanes
from ig_plugins.search.text import REPLACEMENT, Whole, first_stop


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
    left, kept = tuple(ids), len(ids)
    if detokenizer.answer(request, left) != text:
        encoded = lanes.encode(text)
        if detokenizer.answer(request, encoded) == text:
            left = encoded
        while not text.startswith(shown := detokenizer.answer(request, left)):
            left = left[:-1]  # a character or a run of bytes was cut
        text = shown
        while not text.startswith(detokenizer.answer(request, ids[:kept])):
            kept -= 1
    return Cut(text, Whole(row, request, detokenizer.judged(request, left, text), left), kept)
