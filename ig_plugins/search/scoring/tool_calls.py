"""Where tool calls are judged: each text that a reader gets of an answer that is taken apart into words and calls."""

from __future__ import annotations

from collections.abc import Sequence

from ig_plugins.search.lanes import Key, Lanes
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.text import Whole
from ig_plugins.search.verifier import Trail


def reply_passes(costs: Sequence[JudgeSession], lanes: Lanes, key: Key) -> bool:
    """Whether the cost models accept what a finished answer is taken apart into: each text that a reader is given.

    It is judged as it is handed out, behind what the caller wrote, and not behind the start of a forced call. Words
    before a call leave without the text behind them that may have made them pass, and arguments leave without their
    escapes. Judges of tokens have read these tokens at every step; read terminally, they only know the whole.
    """
    request = lanes.rows[key[0]].request
    reply = lanes.reply(key)
    if reply is None:
        return True
    for session, budget in zip(costs, request.budgets, strict=True):
        if not session.reads_text and budget.reading == "any_time":
            continue
        read = lanes.text(*key).text
        texts = [text for text in reply.handed_out() if request.written_text + text != read]
        parts = [
            Whole(key[0], request, request.written_text + text, lanes.encode(text), forced=False) for text in texts
        ]
        for found in session.score_whole(parts):
            if not Trail.start([budget]).extended([found]).may_leave():
                return False
    return True
