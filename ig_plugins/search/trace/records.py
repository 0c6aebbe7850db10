"""A trace as JSON that people can keep.

It holds the text of lanes that no judge has passed, and of lanes that a judge refused. So it is for operators: it
stands in `GuardResult.trace` alone, never in reports, logs or answers over HTTP.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from critic_models.safety import Accounting, Reading, SafetyBudget
from ig_plugins.search.verifier import Track

FORMAT: Literal[1] = 1

Fate = Literal[
    "beam",
    "answer",
    "over_budget",
    "part_refused",
    "doubtful",
    "unread",
    "repeat",
    "outranked",
    "not_drawn",
    "given_up",
]
"""What became of a lane:

* ``beam``: it went on to the next block. ``answer``: it ended, and the cost models passed it.
* ``over_budget``: a cost model refused it.
* ``part_refused``: it passed as a whole, but a text that a tool call in it hands out did not, or the beginning of it
  that was to leave before the search began anew.
* ``doubtful``: the critic did not foresee a safe end for it, or not surely enough for a narrow block.
* ``unread``: it ended, and was not read because answers that the critic thought better of had passed.
* ``repeat``: it says what another lane of the same beam says. ``outranked``: K others, or an answer, were better.
* ``not_drawn``: without a reward model, the fair draw took others.
* ``given_up``: it left the best beam's path more than ``max_lag`` blocks ago.
"""

Verdict = Literal["done", "again", "wider", "dead_end"]
"""What became of a try: beams or answers were found; none was, and the block is sampled again; few lanes were not
enough, and the block is searched in full; none was, and it was the last try."""

Place = tuple[int, int]
"""(number of the try in the trace, number of the lane)"""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LaneRecord(_Record):
    """One sampled continuation of a beam.

    Attributes:
        lane: Its number within the try.
        beam: Which of the try's beams it continues.
        text: What it adds to that beam; cut after `seen.CHARACTERS`.
        takes_back: How many characters of the beam's text it first takes back, where a stop string began there or more
            bytes changed what the last ones stand for.
        tokens: Its tokens in this block.
        fate: What became of it.
        end: How the answer ended, if it did.
        costs: Per cost model what the whole answer up to its end cost; None where nobody read it.
        states: Per cost model z, the budget left at its end; None likewise.
        foresight: The critic's chance that it ends safe.
        value: The discounted reward that the critic expects.
        reward: The reward model's score, of verified answers.
        score: By which it was ranked; None unless it was judged safe.
    """

    lane: int
    beam: int
    text: str
    takes_back: int = 0
    tokens: int
    fate: Fate
    end: Literal["stop", "length"] | None = None
    costs: tuple[float | None, ...] | None = None
    states: tuple[float | None, ...] | None = None
    foresight: float | None = None
    value: float | None = None
    reward: float | None = None
    score: float | None = None


class Release(_Record):
    """Text that all answers to come share, as the cost models read it before it might leave.

    Attributes:
        text: What is new of it.
        tokens: Tokens of the answer up to its end.
        passed: Whether it may leave; if not, whatever contains it is lost.
        costs: Per cost model what the answer cost up to there.
        states: Per cost model z there.
    """

    text: str
    tokens: int
    passed: bool
    costs: tuple[float | None, ...]
    states: tuple[float | None, ...]


class TryRecord(_Record):
    """A block, sampled once.

    Attributes:
        search: How often the search had begun anew from the prompt before.
        block: The block's number, from 0.
        attempt: How often the block had failed before.
        narrow: Sampled with few lanes (adaptive search).
        beams: Where the beams come from that the lanes continue; None for the prompt.
        sampled: Lanes.
        tokens: Tokens sampled in all lanes.
        safe: Lanes that were judged safe.
        lanes: The lanes, fewer than ``sampled`` where the trace had no more room.
        verdict: What became of it.
        release: What might leave after it, or was refused.
        seconds: Since the request began.
    """

    search: int
    block: int
    attempt: int
    narrow: bool
    beams: tuple[Place | None, ...]
    sampled: int
    tokens: int
    safe: int
    lanes: tuple[LaneRecord, ...]
    verdict: Verdict
    release: Release | None = None
    seconds: float


class Point(_Record):
    """One checked point of an answer: after how many tokens, what the step there cost, and z behind it."""

    tokens: int
    cost: float
    state: float


class CostLine(_Record):
    """One cost model, and z along the answer that was given.

    Attributes:
        name: Of the cost model.
        limit: The budget.
        accounting: How cost was counted.
        reading: When z must be safe.
        discount: Gamma.
        points: Every point that the cost model was asked about on the way of the answer; none when blocked.
    """

    name: str
    limit: float
    accounting: Accounting
    reading: Reading
    discount: float
    points: tuple[Point, ...] = ()

    @classmethod
    def along(cls, name: str, budget: SafetyBudget, track: Track | None) -> CostLine:
        """What a cost model said along an answer, if there is one."""
        stated = {key: getattr(budget, key) for key in ("limit", "accounting", "reading", "discount")}
        if track is None:
            return cls(name=name, **stated)
        steps = zip(track.ends, track.costs.tolist(), track.states.tolist()[1:], strict=True)
        points = tuple(Point(tokens=end, cost=cost, state=state) for end, cost, state in steps)
        return cls(name=name, **stated, points=points)


class Trace(_Record):
    """All of a search.

    Attributes:
        format: Of this record; see docs/versioning.md.
        prompt: As judges of texts read it.
        prefill: Assistant text that the caller wrote.
        costs: The cost models.
        tries: In order.
        left_out: Tries that the trace had no room for.
        answer: Where the answer that was given ended; None when blocked, or left out.
        candidates, beams, block_tokens, most_tries: N, K, d and M.
    """

    format: Literal[1] = Field(default=FORMAT)
    prompt: str
    prefill: str = ""
    costs: tuple[CostLine, ...]
    tries: tuple[TryRecord, ...]
    left_out: int = 0
    answer: Place | None = None
    candidates: int
    beams: int
    block_tokens: int
    most_tries: int
