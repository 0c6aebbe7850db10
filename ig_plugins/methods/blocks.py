"""Block beam search with any rule of selection, for many prompts at once.

One block of the whole length is best-of-N; one lane of it is base. It is the guard's own search (`BlockSearch`) with
another scoring: a rule ranks the lanes, unsafe ones go on as well, and nothing is verified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ig_plugins.methods.base import Answer
from ig_plugins.methods.bench import Bench
from ig_plugins.methods.panel import Candidate, Panel
from ig_plugins.search import BlockSearch, Capacity, Request, Row, Step
from ig_plugins.search.follow import Follower
from ig_plugins.search.lanes import Lanes
from ig_plugins.search.path import Measure
from ig_plugins.search.scoring import Judgement, starting_measure

Rule = Callable[[Sequence[Candidate]], Sequence[float]]
"""Scores the candidates of a block, higher is better; -inf rejects."""


@dataclass(frozen=True, eq=False)
class BlockMethod:
    """Samples N lanes a block, keeps the K best by a rule, and gives the best finished answer. Never abstains.

    Attributes:
        bench: Policy, judges and settings.
        rule: Scores candidates.
        lanes: N.
        beams: K.
        block: d, tokens a block; the whole answer for best-of-N.
        tries: M, how often a block is sampled as long as the rule rejects all of it.
        judged: False if the rule needs no judge.
    """

    bench: Bench
    rule: Rule
    lanes: int
    beams: int
    block: int
    tries: int = 1
    judged: bool = True

    def answer(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Answer]:
        """See `Method`."""
        requests = [self._request(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        capacity = Capacity.of(requests)
        panel = Panel(self.bench, capacity=capacity, judged=self.judged)
        search = BlockSearch(self.bench.policy, RuleScoring(panel, self.rule), capacity=capacity)
        search.admit(requests)
        answers = {}
        while search.rows:
            for outcome in search.step():
                if outcome.answer is None:
                    raise RuntimeError("a search that accepts every lane ended without an answer")
                row = outcome.row
                answers[id(row.request)] = Answer.of(
                    self.bench,
                    outcome.answer.step.token_ids(),
                    candidate_tokens=row.candidate_tokens,
                    judge_calls=row.judge_calls,
                    judge_tokens=row.judge_tokens,
                )
        return [answers[id(request)] for request in requests]

    def _request(self, prompt: str, seed: int) -> Request:
        return self.bench.guard.request(
            prompt,
            seed=seed,
            candidates=self.lanes,
            beams=self.beams,
            block_tokens=self.block,
            tries=self.tries,
            schedule=(),
            stratified=False,
            selection="reward",
            adaptive="off",
            max_lag=self.bench.search.max_new_tokens,  # the beams need not agree: nothing is streamed
        )


class RuleScoring:
    """Scoring by a rule: see `ig_plugins.search.scoring.Scoring`.

    Args:
        panel: Keeps the candidates' figures.
        rule: Ranks them. Where it rejects all and there are tries left, the block is sampled again; else all go on.
    """

    foresees = False
    optimism = math.inf

    def __init__(self, panel: Panel, rule: Rule) -> None:
        self._panel, self._rule = panel, rule
        self.followers: Sequence[Follower] = panel.followers

    def admit(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Measure]:
        """See `Scoring`."""
        self._panel.admit(requests)
        return [starting_measure(request) for request in requests]

    def retain(self, rows: Sequence[int]) -> None:
        """See `Scoring`."""
        self._panel.retain(rows)

    def judge(self, lanes: Lanes) -> Judgement:
        """See `Scoring`."""
        shape = lanes.lengths.shape
        accepted, score = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -torch.inf)
        judged = self._panel.judge(lanes.parents, lanes.tokens, lanes.lengths, lanes.natural)
        for index, (row, mine) in enumerate(zip(lanes.rows, judged, strict=True)):
            for lane, candidate in mine.items():
                candidate.hidden, candidate.said = lanes.hidden[index, lane], lanes.said[index, lane]
            scores = torch.tensor(list(self._rule(list(mine.values()))), dtype=torch.float32)
            score[index, list(mine)] = scores
            accepted[index, list(mine)] = row.last_try or bool((scores > -torch.inf).any())
        return Judgement(accepted, score, torch.zeros_like(accepted), {}, {})

    def commit(self, lanes: Lanes, kept: Tensor) -> None:
        """See `Scoring`."""
        self._panel.commit(kept)

    def release(self, rows: Sequence[Row], steps: Sequence[Step]) -> list[bool]:
        """See `Scoring`. Nothing is verified."""
        return [True] * len(rows)
