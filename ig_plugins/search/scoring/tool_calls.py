"""Where tool calls are judged: each text that a reader gets of an answer that is taken apart into words and calls.

JSON that is no call is judged here, too: its reader takes it apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from critic_models.safety import SafetyBudget
from ig_plugins.chat.json_words import json_words
from ig_plugins.chat.rendering import argument_words
from ig_plugins.search.lanes import Key, Lanes
from ig_plugins.search.request import Reply
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.text import Whole
from ig_plugins.search.verifier import Scored, Track, Trail


def judged_apart(costs: Sequence[JudgeSession], lanes: Lanes, key: Key, trail: Trail) -> Trail | None:
    """Lets the cost models judge what a finished answer is taken apart into: each text that a reader is given.

    It is judged as it is handed out, behind what the caller wrote, and not behind the start of a forced call. Words
    before a call leave without the text behind them that may have made them pass, and arguments, like all that is read
    as JSON, leave without their escapes.

    Args:
        costs: The cost models' sessions.
        lanes: The open block.
        key: (row, lane) of the answer.
        trail: The cost models' scores of the answer as a whole.

    Returns:
        The trail, in which the worst score of all these texts counts; None where one of them is refused.
    """
    request = lanes.rows[key[0]].request
    reply = lanes.reply(key)
    read = lanes.text(*key).text
    if reply is None:
        parts = [Whole(key[0], request, words, lanes.encode(words), forced=False) for words in json_words(read)]
    else:
        texts = [text for text in reply.handed_out() if request.written_text + text != read]
        parts = [
            Whole(key[0], request, request.written_text + text, lanes.encode(text), forced=False) for text in texts
        ]
    if not parts:
        return trail
    found = []
    for session, track, budget in zip(costs, trail.tracks, request.budgets, strict=True):
        scored = session.score_whole(parts if session.reads_text else _unread(parts, lanes, key, budget))
        if not all(Trail.start([budget]).extended([each]).may_leave() for each in scored):
            return None
        found.append(_worst(scored, track, budget))
    return trail.extended(found)


def _unread(parts: Sequence[Whole], lanes: Lanes, key: Key, budget: SafetyBudget) -> list[Whole]:
    """The parts that a judge of tokens has not read at a step of the answer; a terminal reading asks the end alone.

    A part at the answer's start is read there as it leaves. A call is read where it stands, word for word where no
    escapes hide anything: asked about its bare words again, a probe sees a text unlike any that it was taught, and
    takes harmless ones for harm.
    """
    if budget.reading != "any_time":
        return list(parts)
    request, reply, ids = lanes.rows[key[0]].request, lanes.reply(key), lanes.token_ids(*key)
    unforced = request.written == len(request.prefill_ids)
    left = [part for part in parts if not (unforced and ids[: len(part.ids)] == part.ids)]
    if reply is None or not _as_written(reply, lanes.text(*key).text):
        return left
    return [part for part in left if part.text == request.written_text + reply.text]


def _as_written(reply: Reply, read: str) -> bool:
    """Whether all that is read as JSON stands in the answer as its reader gets it, white space apart."""
    bare = "".join(read.split())
    values = [*(argument_words(call["arguments"]) for call in reply.tool_calls), *json_words(reply.text)]
    return all("".join(value.split()) in bare for value in values)


def _worst(scored: Sequence[Scored], track: Track, budget: SafetyBudget) -> Scored:
    """The highest score of some texts as a point at the end of a track; none where cost accumulates along one text."""
    scores = torch.cat([each.scores for each in scored]) if scored else torch.zeros(0, dtype=torch.float64)
    if budget.accounting != "worst" or not len(scores):
        return Scored(torch.zeros(0, dtype=torch.float64), (), track.whole)
    return Scored(scores.amax().unsqueeze(0), track.ends[-1:] or (0,), track.whole)
