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

from ig_plugins.research.methods.base import Answer
from ig_plugins.research.methods.candidate_scorer import Candidate, CandidateScorer
from ig_plugins.research.methods.context import Context
from ig_plugins.search import BlockSearch, Border, Capacity, Request, Row
from ig_plugins.search.lanes import Lanes
from ig_plugins.search.scoring.base import Judgement
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.verifier import Trail

Rule = Callable[[Sequence[Candidate]], Sequence[float]]
"""Scores the candidates of a block, higher is better; -inf rejects."""


@dataclass(frozen=True, eq=False)
class BlockMethod:
    """Samples N lanes a block, keeps the K best by a rule, and gives the best finished answer. Never abstains.

    Attributes:
        context: Policy, judges and settings.
        rule: Scores candidates.
        lanes: N.
        beams: K.
        block: d, tokens a block; the whole answer for best-of-N.
        tries: M, how often a block is sampled as long as the rule rejects all of it.
        judged: False if the rule needs no judge.
    """

    context: Context
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
        scorer = CandidateScorer(self.context, capacity=capacity, judged=self.judged)
        search = BlockSearch(self.context.policy, RuleScoring(scorer, self.rule), capacity=capacity)
        search.add_rows(requests)
        answers = {}
        while search.rows:
            for outcome in search.step():
                if outcome.answer is None:
                    raise RuntimeError("a search that accepts every lane ended without an answer")
                row = outcome.row
                answers[id(row.request)] = Answer.of(
                    self.context,
                    outcome.answer.step.token_ids(),
                    candidate_tokens=row.candidate_tokens,
                    judge_calls=row.judge_calls,
                    judge_tokens=row.judge_tokens,
                )
        return [answers[id(request)] for request in requests]

    def _request(self, prompt: str, seed: int) -> Request:
        return self.context.guard.request(
            prompt,
            seed=self.context.guard.numbered(seed),
            candidates=self.lanes,
            beams=self.beams,
            block_tokens=self.block,
            tries=self.tries,
            schedule=(),
            stratified=False,
            selection="reward",
            adaptive="off",
            max_lag=self.context.search.max_new_tokens,  # the beams need not agree: nothing is streamed
        )


class RuleScoring:
    """Scoring by a rule: see `ig_plugins.search.scoring.base.Scoring`.

    Args:
        scorer: Keeps the candidates' figures.
        rule: Ranks them. Where it rejects all and there are tries left, the block is sampled again; else all go on.
    """

    has_critic = False
    ranks = True
    optimism = math.inf

    def __init__(self, scorer: CandidateScorer, rule: Rule) -> None:
        self._scorer, self._rule = scorer, rule
        self.sessions: Sequence[JudgeSession] = scorer.sessions

    def add_rows(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Trail]:
        """See `Scoring`."""
        self._scorer.add_rows(requests)
        return [Trail.start(request.budgets) for request in requests]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See `Scoring`."""
        self._scorer.keep_rows(rows)

    def judge(self, lanes: Lanes) -> Judgement:
        """See `Scoring`."""
        shape = lanes.lengths.shape
        accepted, score = torch.zeros(shape, dtype=torch.bool), torch.full(shape, -torch.inf, dtype=torch.float64)
        judged = self._scorer.judge(lanes.parents, lanes.tokens, lanes.lengths, lanes.natural)
        for index, (row, mine) in enumerate(zip(lanes.rows, judged, strict=True)):
            for lane, candidate in mine.items():
                candidate.hidden, candidate.mean_hidden = lanes.hidden[index, lane], lanes.mean_hidden[index, lane]
            scores = torch.tensor(list(self._rule(list(mine.values()))), dtype=torch.float64)
            score[index, list(mine)] = scores
            accepted[index, list(mine)] = row.last_try or bool((scores > -torch.inf).any())
        trails = {
            (index, lane): candidate.trail for index, mine in enumerate(judged) for lane, candidate in mine.items()
        }
        return Judgement(accepted, score, torch.zeros_like(accepted), {}, trails)

    def advance(self, lanes: Lanes, kept: Tensor) -> None:
        """See `Scoring`."""
        self._scorer.advance(kept)

    def release(self, rows: Sequence[Row], borders: Sequence[Border | None]) -> list[Border | None]:
        """See `Scoring`. Nothing is verified, so nothing leaves before the end."""
        return [None] * len(rows)
