"""Scoring without a critic: the cost and reward models judge every candidate, partial texts included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from critic_models.safety import SafetyBudget, advance
from ig_plugins.search.lanes import Key, Lanes, Row
from ig_plugins.search.request import Request
from ig_plugins.search.scoring.base import (
    Judgement,
    discounted,
    read_prefills,
    reward_of_cut,
    trail_of,
    verified_cut,
)
from ig_plugins.search.scoring.judge_session import JudgeSession, Scores
from ig_plugins.search.scoring.tool_calls import judged_apart
from ig_plugins.search.text import Whole
from ig_plugins.search.trajectory import Border, Step
from ig_plugins.search.verifier import Scored, Trail, costs_of, may_leave


class DirectScoring:
    """Every judge follows the search's own beams, so each token is read once by each.

    Args:
        costs: One session a cost model.
        reward: The reward model's session; None for answers that are fair draws among the safe ones.
    """

    has_critic = False

    def __init__(self, costs: Sequence[JudgeSession], reward: JudgeSession | None) -> None:
        self._costs, self._reward = costs, reward
        self.sessions: Sequence[JudgeSession] = [*costs, *([reward] if reward else [])]
        self.ranks = reward is not None
        self.optimism = math.inf  # the reward of a partial text bounds nothing

    def add_rows(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Trail]:
        """See `Scoring`."""
        for session in self.sessions:
            session.add_rows(requests)
        return read_prefills(requests, self._costs, self.sessions, beams)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See `Scoring`."""
        for session in self.sessions:
            session.keep_rows(rows)

    def judge(self, lanes: Lanes) -> Judgement:
        """See `Scoring`."""
        safe = lanes.lengths > 0
        found = [
            session.score(lanes.parents, lanes.tokens, lanes.uncut, lanes.text, lanes.states) for session in self._costs
        ]
        for cost, (scores, session) in enumerate(zip(found, self._costs, strict=True)):
            safe = safe & lanes_pass(lanes, cost, scores, whole=session.reads_text)
        trails = {}
        for key in _keys(safe):
            cut, before = key in lanes.cuts, so_far(lanes.rows[key[0]], lanes.beam(*key))
            trails[key] = verified_cut(self._costs, lanes, key, before) if cut else self._on(before, lanes, key, found)
            safe[key] = trails[key].may_leave()
        for key in _keys(safe & lanes.ended):
            apart = judged_apart(self._costs, lanes, key, trails[key])
            safe[key], trails[key] = apart is not None, apart or trails[key]
        reward = self._rewards(lanes, safe)
        rewards = {key: float(reward[key]) for key in _keys(safe & lanes.ended)}
        score = reward.clone()
        for key, value in rewards.items():
            score[key] = discounted(value, lanes.depth(*key), lanes.rows[key[0]].request.budgets)
        measured = partial(self._measured, lanes, found)
        return Judgement(safe, score, torch.zeros_like(safe), rewards if self._reward else {}, trails, measured)

    def advance(self, lanes: Lanes, kept: Tensor) -> None:
        """See `Scoring`."""
        for session in self.sessions:
            session.advance(kept)

    def release(self, rows: Sequence[Row], borders: Sequence[Border | None]) -> list[Border | None]:
        """See `Scoring`. What was measured at the end of a block is not asked again, if it was exactly this text."""
        asked = [
            Whole(
                index,
                row.request,
                row.request.prefill_text + border.text,
                tuple(border.step.token_ids()[: border.tokens]),
            )
            for index, (row, border) in enumerate(zip(rows, borders, strict=True))
            if border is not None and not _measured(row, border)
        ]
        answers = [
            dict(zip([each.row for each in asked], session.score_whole(asked), strict=True))
            if session.reads_text
            else {}
            for session in self._costs
        ]
        return [
            border and replace(border, trail=_joined(so_far(row, border.step).up_to(border.tokens), index, answers))
            for index, (row, border) in enumerate(zip(rows, borders, strict=True))
        ]

    def _on(self, before: Trail, lanes: Lanes, key: Key, found: Sequence[Scores]) -> Trail:
        """From the start of the answer to a lane's end, by the trail of its beam."""
        pairs, end = zip(found, self._costs, strict=True), lanes.depth(*key)
        points = [scores.of(*key, up_to=end, whole=session.reads_text) for scores, session in pairs]
        return before.extended(points)

    def _measured(self, lanes: Lanes, found: Sequence[Scores], key: Key) -> Trail | None:
        """The trail of a lane that was refused; one that a stop string cut was not read behind a lost beam."""
        if key in lanes.cuts:
            return None
        return self._on(so_far(lanes.rows[key[0]], lanes.beam(*key)), lanes, key, found)

    def _rewards(self, lanes: Lanes, safe: Tensor) -> Tensor:
        """Shape (B, L): the reward at each safe lane's end; unsafe lanes are not read."""
        if self._reward is None:
            return torch.zeros(safe.shape, dtype=torch.float64)
        scores = self._reward.score(lanes.parents, lanes.tokens, lanes.uncut * safe, lanes.text)
        rewards = scores.values.gather(-1, (scores.lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        for key in lanes.cuts:
            if safe[key]:
                rewards[key] = reward_of_cut(self._reward, lanes, key)
        return rewards


def so_far(row: Row, step: Step) -> Trail:
    """The trail up to a step, with what judges of texts said when text left within its blocks."""
    return trail_of(step).behind(row.released.trail, row.released.tokens)


def _keys(chosen: Tensor) -> list[Key]:
    """The (row, lane) of every true entry, shape (B, L)."""
    return [(row, lane) for row, lane in chosen.nonzero().tolist()]


def lanes_pass(lanes: Lanes, cost: int, scores: Scores, *, whole: bool) -> Tensor:
    """Whether one cost model accepts every lane up to its end, bool, shape (B, L)."""
    passed = torch.zeros(lanes.lengths.shape, dtype=torch.bool)
    lengths = scores.lengths
    inside = torch.arange(scores.values.shape[-1]) < lengths.unsqueeze(-1)
    for budget, rows in _by_budget(lanes.rows, cost):
        beams = [[so_far(lanes.rows[row], beam) for beam in lanes.rows[row].beams] for row in rows]
        parents = lanes.parents[rows].clamp(min=0)
        before = _of_beams([[trail.tracks[cost].state for trail in mine] for mine in beams], parents)
        score = _of_beams([[float(trail.tracks[cost].score) for trail in mine] for mine in beams], parents)
        upheld = _of_beams([[float(trail.may_leave(cost)) for trail in mine] for mine in beams], parents) > 0
        costs = costs_of(scores.values[rows], score, budget, whole=whole)
        states = torch.cat([before.unsqueeze(-1), advance(before, costs, budget)], dim=-1)  # (b, L, 1 + T)
        read = torch.cat([torch.ones_like(before, dtype=torch.bool).unsqueeze(-1), inside[rows]], dim=-1)
        passed[rows] = may_leave(states, budget, read=read) & (upheld if budget.reading == "any_time" else True)
    return passed


def _by_budget(rows: Sequence[Row], cost: int) -> list[tuple[SafetyBudget, list[int]]]:
    budgets = [row.request.budgets[cost] for row in rows]
    return [(budget, [row for row, mine in enumerate(budgets) if mine == budget]) for budget in dict.fromkeys(budgets)]


def _of_beams(values: list[list[float]], parents: Tensor) -> Tensor:
    """One number a beam, ragged, as one a lane, float64, shape (b, L)."""
    width = max(1, max(map(len, values), default=0))
    padded = torch.tensor([mine + [0.0] * (width - len(mine)) for mine in values], dtype=torch.float64)
    return padded.gather(1, parents)


def _measured(row: Row, border: Border) -> bool:
    """Whether judges of texts have read exactly this text, at the end of a block."""
    step = border.step
    while len(step) > border.tokens and step.parent is not None:
        step = step.parent
    return len(step) == border.tokens and step.judged == row.request.prefill_text + border.text


def _joined(trail: Trail, row: int, answers: Sequence[dict[int, Scored]]) -> Trail:
    """A trail with the points that judges of texts were just asked about."""
    nothing = Scored(torch.zeros(0, dtype=torch.float64), (), whole=False)
    return trail.extended([mine.get(row, nothing) for mine in answers])
