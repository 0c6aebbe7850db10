"""Who writes a trace: told of every block twice, when it is judged and when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ig_plugins.search.lanes import Answer, Lanes, Row
from ig_plugins.search.scoring.base import Judgement
from ig_plugins.search.trace.records import CostLine, Place, Release, Trace, TryRecord, Verdict
from ig_plugins.search.trace.seen import Said, Seen, figures, seen_lanes
from ig_plugins.search.trajectory import Step

LANES = 4000  # of a trace; when it holds so many, only those that went on or ended as answers are written down
TRIES = 2000  # of a trace; those that follow are counted


class Recorder:
    """Follows one request's search; see `search.request.Watcher`. It reads, and changes nothing."""

    def __init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        """The request starts anew; what was seen of it is void."""
        self._tries: list[TryRecord] = []
        self._beams: dict[Step, Place] = {}
        self._answers: dict[Said, Place] = {}
        self._lanes = self._left_out = 0

    def judged(self, lanes: Lanes, judgement: Judgement, index: int, *, ranks: bool) -> Callable[[Sequence[int]], None]:
        """See `search.request.Watcher`."""
        if len(self._tries) >= TRIES:
            return self._leave_out
        return _Try(self, lanes, judgement, index, ranks=ranks).done

    def trace(self, row: Row, answer: Answer | None, names: Sequence[str]) -> Trace:
        """All of it, now that the search has ended.

        Args:
            row: The row that ended.
            answer: What is given; None when blocked.
            names: Of the cost models.
        """
        request, search = row.request, row.request.search
        tracks = answer.trail.tracks if answer else [None] * len(names)
        return Trace(
            prompt=request.judge_prompt,
            prefill=request.prefill_text,
            costs=tuple(
                CostLine.along(name, budget, track)
                for name, budget, track in zip(names, request.budgets, tracks, strict=True)
            ),
            tries=tuple(self._tries),
            left_out=self._left_out,
            answer=self._answers.get((answer.step.parent, answer.step.tokens)) if answer else None,
            candidates=search.candidates,
            beams=search.beams,
            block_tokens=search.block_tokens,
            most_tries=search.tries,
        )

    def place_of(self, beam: Step) -> Place | None:
        """Where a beam was sampled; None for the prompt."""
        return self._beams.get(beam)

    def sampled_before(self, row: Row) -> int:
        """Tokens that earlier tries of a row's open block sampled."""
        key = (row.restarts, row.blocks)
        return sum(each.tokens for each in self._tries if (each.search, each.block) == key)

    def write(self, entry: TryRecord, lanes: Sequence[Seen], row: Row, goes_on: Sequence[int]) -> None:
        """Adds a try that is done, as far as there is room.

        Steps hold states of the model, so only those are kept that may still be asked for.

        Args:
            entry: Without its lanes.
            lanes: All that were sampled.
            row: Its row.
            goes_on: The lanes that are the row's beams now; none where the block is taken back.
        """
        number, room = len(self._tries), self._lanes < LANES
        fresh = {step: (number, lane) for lane, step in zip(goes_on, row.beams, strict=False)}
        self._beams = fresh or {step: place for step, place in self._beams.items() if step in row.beams}
        self._answers.update({each.said: (number, each.lane) for each in lanes if each.fate == "answer"})
        waiting = {(answer.step.parent, answer.step.tokens) for answer in row.finished}
        self._answers = {said: place for said, place in self._answers.items() if said in waiting}
        kept = tuple(each.record() for each in lanes if room or each.fate in ("beam", "answer"))
        self._lanes += len(kept)
        self._tries.append(entry.model_copy(update={"lanes": kept}))

    def _leave_out(self, kept: Sequence[int]) -> None:
        self._left_out += 1


class _Try:
    """One sampled block of a row, between its judgement and its end."""

    def __init__(self, recorder: Recorder, lanes: Lanes, judgement: Judgement, index: int, *, ranks: bool) -> None:
        self._recorder, self._row, self._ranks = recorder, lanes.rows[index], ranks
        row = self._row
        self._lanes = seen_lanes(lanes, judgement, index, ranks=ranks)
        self._block, self._attempt, self._narrow, self._released = row.blocks, row.attempt, row.narrow, row.released
        self._beams = tuple(recorder.place_of(beam) for beam in row.beams)
        self._tokens = row.sampled_tokens - recorder.sampled_before(row)

    def done(self, kept: Sequence[int]) -> None:
        """The block is done.

        Args:
            kept: The lanes that go on, or stand for the beams as they were where the block is taken back.
        """
        row, chosen = self._row, self._row.blocks > self._block  # or the block is taken back
        goes_on = list(kept) if chosen else []
        self._settle(goes_on)
        entry = TryRecord(
            search=row.restarts,
            block=self._block,
            attempt=self._attempt,
            narrow=self._narrow,
            beams=self._beams,
            sampled=len(self._lanes),
            tokens=self._tokens,
            safe=sum(each.accepted for each in self._lanes),
            lanes=(),
            verdict=self._verdict(chosen),
            release=self._release(),
            seconds=time.monotonic() - row.request.started,
        )
        self._recorder.write(entry, self._lanes, row, goes_on)

    def _settle(self, goes_on: Sequence[int]) -> None:
        """Says of every accepted lane what became of it."""
        drawn = {(answer.step.parent, answer.step.tokens) for answer in self._row.finished}
        full = len(goes_on) >= (1 if self._narrow else self._row.request.search.beams)
        told: set[Said] = {each.said for each in self._lanes if each.lane in goes_on}
        for each in sorted(self._lanes, key=lambda lane: not lane.accepted):
            if each.lane in goes_on:
                each.fate = "beam"
            elif each.said in told:
                each.fate = "repeat"
            elif each.accepted and each.ended:
                each.fate = "answer" if self._ranks or each.said in drawn else "not_drawn"
            elif each.accepted:
                each.fate = "not_drawn" if not self._ranks else "outranked" if full or not goes_on else "given_up"
            told.add(each.said)

    def _verdict(self, chosen: bool) -> Verdict:
        if chosen:
            return "done" if any(each.fate in ("beam", "answer") for each in self._lanes) else "dead_end"
        return "wider" if self._narrow else "again"

    def _release(self) -> Release | None:
        border = self._row.refused or self._row.released
        if border is self._released:
            return None
        costs, states = figures(border.trail)
        return Release(
            text=border.text[len(self._released.text) :],
            tokens=border.tokens,
            passed=border is not self._row.refused,
            costs=costs,
            states=states,
        )
