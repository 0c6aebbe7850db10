"""What there is to see of a block's lanes before any is chosen: afterwards their beams are gone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ig_plugins.errors import JudgeError
from ig_plugins.search.lanes import Key, Lanes
from ig_plugins.search.scoring.base import Judgement
from ig_plugins.search.text import REPLACEMENT
from ig_plugins.search.trace.records import Fate, LaneRecord
from ig_plugins.search.trajectory import Step
from ig_plugins.search.verifier import Trail

CHARACTERS = 1000  # of a lane's text that a trace keeps
CONTEXT = 32  # tokens before a lane that are decoded with it: whole answers would cost by the square of their length

Said = tuple[Step | None, tuple[int, ...]]
"""The beam that a lane continues, and its tokens: lanes that agree in both are one."""


@dataclass(eq=False)
class Seen:
    """A judged lane. Its fate is a guess until the block is done.

    Attributes:
        accepted: Judged safe, and surely enough where few lanes are tried.
        trail: What the cost models said, if anybody asked them.
        Others: As in `LaneRecord`.
    """

    lane: int
    beam: int
    said: Said
    text: str
    takes_back: int
    accepted: bool
    ended: bool
    end: Literal["stop", "length"] | None
    fate: Fate
    trail: Trail | None
    foresight: float | None
    value: float | None
    reward: float | None
    score: float | None

    def record(self) -> LaneRecord:
        """For the trace."""
        costs, states = (None, None) if self.trail is None else figures(self.trail)
        return LaneRecord(
            lane=self.lane,
            beam=self.beam,
            text=self.text[:CHARACTERS],
            takes_back=self.takes_back,
            tokens=len(self.said[1]),
            fate=self.fate,
            end=self.end,
            costs=costs,
            states=states,
            foresight=self.foresight,
            value=self.value,
            reward=self.reward,
            score=self.score,
        )


def seen_lanes(lanes: Lanes, judgement: Judgement, index: int, *, ranks: bool) -> list[Seen]:
    """A row's sampled lanes; without a reward they are not ranked, and have no score."""
    prefill = lanes.rows[index].request.prefill_ids
    contexts = [[*prefill, *beam.token_ids()][-CONTEXT:] for beam in lanes.rows[index].beams]
    sampled = lanes.lengths[index].nonzero().flatten().tolist()
    found = [_seen(lanes, judgement, (index, lane), contexts[int(lanes.parents[index, lane])]) for lane in sampled]
    for each in found if not ranks else ():
        each.score = None
    return found


def figures(trail: Trail) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """What it cost and what is left, one a cost model; None where nothing was read yet."""
    return tuple(trail.spent()), tuple(map(_number, trail.state))


def _seen(lanes: Lanes, judgement: Judgement, key: Key, context: list[int]) -> Seen:
    row, ended = lanes.rows[key[0]], bool(lanes.ended[key])
    accepted = bool((judgement.confident if row.narrow else judgement.safe)[key])
    trail = _trail(judgement, key)
    before, text = _texts(lanes, key, context, ended=ended)
    shared = _shared(before, text)
    logit, value = judgement.foreseen or (None, None)
    return Seen(
        lane=key[1],
        beam=int(lanes.parents[key]),
        said=(lanes.beam(*key), lanes.block(*key)),
        text=text[shared:],
        takes_back=len(before) - shared,
        accepted=accepted,
        ended=ended,
        end=("stop" if lanes.natural[key] or key in lanes.cuts else "length") if ended else None,
        fate=_guess(trail, ended=ended, foreseen=judgement.foreseen is not None),
        trail=trail,
        foresight=None if logit is None else float(logit[key].sigmoid()),
        value=None if value is None else float(value[key]),
        reward=judgement.rewards.get(key),
        score=_number(float(judgement.score[key])) if accepted else None,
    )


def _guess(trail: Trail | None, *, ended: bool, foreseen: bool) -> Fate:
    """Why a lane does not go on, if it was not accepted."""
    if trail is not None:
        return "part_refused" if trail.may_leave() else "over_budget"
    return ("unread" if ended else "doubtful") if foreseen else "over_budget"


def _trail(judgement: Judgement, key: Key) -> Trail | None:
    """What the cost models said of a lane, refused ones included."""
    try:
        return judgement.trails.get(key) or judgement.measured(key)
    except JudgeError:  # scores too large to be added up: the lane was refused, and has no figures
        return None


def _texts(lanes: Lanes, key: Key, context: list[int], *, ended: bool) -> tuple[str, str]:
    """The ends of a beam's text and of a lane's, from the same place on. Of an open text, without half a character."""
    decode = lanes.detokenizer
    if key in lanes.cuts:
        beam = decode.answer(lanes.rows[key[0]].request, lanes.beam(*key).token_ids())
        return beam.rstrip(REPLACEMENT), lanes.cuts[key].text
    text = decode.text([*context, *lanes.block(*key)])
    return decode.text(context).rstrip(REPLACEMENT), text if ended else text.rstrip(REPLACEMENT)


def _shared(before: str, text: str) -> int:
    """How many leading characters two texts share."""
    if text.startswith(before):
        return len(before)
    return next((at for at, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(text))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
