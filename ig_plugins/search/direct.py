"""Scoring without a critic: the cost and reward models judge every candidate, partial texts included."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ig_plugins.safety import is_safe
from ig_plugins.search.follow import Follower, LaneText, check_finite
from ig_plugins.search.lanes import Lanes, Row, pad
from ig_plugins.search.path import Measure, Step
from ig_plugins.search.request import Request
from ig_plugins.search.scoring import (
    Judgement,
    Trail,
    discounted,
    starting_measure,
    state_of,
    track,
)
from ig_plugins.search.verify import cut_passes


class DirectScoring:
    """Every judge follows the search's own beams, so each token is read once by each.

    Args:
        costs: One follower a cost model.
        reward: The reward model's follower; None ranks all safe candidates alike.
    """

    foresees = False

    def __init__(self, costs: Sequence[Follower], reward: Follower | None) -> None:
        self._costs, self._reward = costs, reward
        self.followers: Sequence[Follower] = [*costs, *([reward] if reward else [])]
        # The reward of a partial text bounds nothing; without a reward model any safe answer is as good as the next.
        self.optimism = math.inf if reward else 0.0

    def admit(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Measure]:
        """See `Scoring`."""
        for follower in self.followers:
            follower.admit(requests)
        return read_prefills(requests, self._costs, self.followers, beams)

    def retain(self, rows: Sequence[int]) -> None:
        """See `Scoring`."""
        for follower in self.followers:
            follower.retain(rows)

    def judge(self, lanes: Lanes) -> Judgement:
        """See `Scoring`."""
        before = lane_states(lanes)  # (B, L, C)
        safe = lanes.lengths > 0
        tracks = []
        for cost, follower in enumerate(self._costs):
            scores = follower.measure(lanes.parents, lanes.tokens, lanes.lengths, lanes.text)
            check_finite(scores, follower.judge.name)
            tracks.append(track(scores, before[..., cost], [row.request.budgets[cost] for row in lanes.rows]))
            safe = safe & tracks[-1].safe
        for (row, lane), text in lanes.cuts.items():
            if safe[row, lane]:
                safe[row, lane] = cut_passes(self._costs, lanes, row, text)
        measures: dict[tuple[int, int], list[Measure | None]] = {
            (row, lane): [
                Measure(
                    spent=tuple(float(t.spent[row, lane]) for t in tracks),
                    state=tuple(float(t.state[row, lane]) for t in tracks),
                )
            ]
            for row, lane in (lanes.lengths > 0).nonzero().tolist()
        }
        reward = self._rewards(lanes, safe)
        rewards = {(row, lane): float(reward[row, lane]) for row, lane in (safe & lanes.ended).nonzero().tolist()}
        score = reward.clone()
        for (row, lane), value in rewards.items():
            score[row, lane] = discounted(value, lanes.depth(row, lane), lanes.rows[row].request.budgets)
        return Judgement(safe, score, torch.zeros_like(safe), rewards if self._reward else {}, measures)

    def commit(self, lanes: Lanes, kept: Tensor) -> None:
        """See `Scoring`."""
        for follower in self.followers:
            follower.commit(kept)

    def release(self, rows: Sequence[Row], steps: Sequence[Step]) -> list[bool]:
        """See `Scoring`. Everything was measured while it was searched."""
        return [
            all(
                bool(is_safe(torch.tensor(state), budget))
                for state, budget in zip(step.measure.state, row.request.budgets, strict=True)
            )
            if step.measure
            else False
            for row, step in zip(rows, steps, strict=True)
        ]

    def _rewards(self, lanes: Lanes, safe: Tensor) -> Tensor:
        """Shape (B, L): the reward at each safe lane's end; unsafe lanes are not read."""
        if self._reward is None:
            return torch.zeros(safe.shape)
        lengths = lanes.lengths * safe
        scores = self._reward.measure(lanes.parents, lanes.tokens, lengths, lanes.text)
        check_finite(scores, self._reward.judge.name)
        return scores.values.gather(-1, (scores.lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)


def lane_states(lanes: Lanes) -> Tensor:
    """The last measured state of every lane's beam, shape (B, L, C), float64."""
    costs = len(lanes.rows[0].request.budgets)
    states = torch.zeros(*lanes.parents.shape, costs, dtype=torch.float64)
    for index, row in enumerate(lanes.rows):
        if row.beams:
            states[index] = state_of(row.beams)[lanes.parents[index].clamp(min=0)]
    return states


def read_prefills(
    requests: Sequence[Request], costs: Sequence[Follower], followers: Sequence[Follower], beams: Sequence[int]
) -> list[Measure]:
    """Lets every judge read the prefilled assistant text of new requests, which spends budget.

    Args:
        requests: The new rows, already admitted.
        costs: The followers whose scores are measured.
        followers: All that must keep up.
        beams: Open beams of the rows that were there before; those stay as they are.
    """
    starts = [starting_measure(request) for request in requests]
    longest = max(len(request.prefill_ids) for request in requests)
    if longest == 0:
        return starts
    counts = [*beams, *([1] * len(requests))]
    parents = pad([list(range(count)) for count in counts])
    tokens = torch.zeros(*parents.shape, longest, dtype=torch.long)
    lengths = torch.zeros_like(parents)
    for row, request in enumerate(requests, start=len(beams)):
        lengths[row, 0] = len(request.prefill_ids)
        tokens[row, 0, : len(request.prefill_ids)] = torch.tensor(list(request.prefill_ids), dtype=torch.long)

    def text_of(row: int, lane: int) -> LaneText:
        return LaneText(requests[row - len(beams)].prefill_text, finished=False)

    values: list[list[Tensor]] = [[] for _ in requests]
    for follower in followers:
        scores = follower.measure(parents, tokens, lengths, text_of)
        check_finite(scores, follower.judge.name)
        if any(follower is cost for cost in costs):
            for index, row in enumerate(range(len(beams), len(counts))):
                values[index].append(scores.values[row, 0, : int(scores.lengths[row, 0])])
        follower.commit(parents.where(parents < 0, torch.arange(parents.shape[1])))
    measures = []
    for request, start, mine in zip(requests, starts, values, strict=True):
        trail = Trail.follow(mine, start, request.budgets)
        read = len(request.prefill_ids)
        measures.append((trail.measures([read])[-1] if read else None) or start)
    return measures
