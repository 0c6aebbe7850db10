"""Block beam search with any rule of selection. One block of the whole length is best-of-N; one lane of it is base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ig_plugins.engine import Block, TreeSession, sample_block
from ig_plugins.methods.base import Answer
from ig_plugins.methods.bench import Bench
from ig_plugins.methods.panel import Candidate, Panel
from ig_plugins.search import Capacity, Request

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

    def answer(self, prompts: Sequence[str], *, seed: int) -> list[Answer]:
        """See `Method`."""
        return [self._one(self.bench.request(prompt, seed=seed)) for prompt in prompts]

    def _one(self, request: Request) -> Answer:
        longest = self.bench.search.max_new_tokens
        capacity = Capacity(lanes=self.lanes, block=min(self.block, longest), max_new=longest)
        session = self.bench.policy.tree.plant(
            [request.prompt_ids], lanes=capacity.lanes, block=capacity.block, max_new=longest
        )
        panel = Panel(self.bench, request, capacity=capacity) if self.judged else None
        beams = [panel.start() if panel else Candidate()]
        done: list[tuple[float, Candidate]] = []
        sampled = 0
        while beams:
            penalty: Tensor | None = None
            for attempt in range(self.tries):
                if attempt > 0:
                    session.rollback()
                    if panel:
                        panel.rollback()
                block = self._sample(session, request, beams, penalty)
                sampled += int(block.lengths.sum())
                lanes = self._candidates(block, beams, panel)
                scores = list(self.rule(lanes))
                if max(scores) > -torch.inf:
                    break
                penalty = self._penalty(block)
            order = sorted(range(len(lanes)), key=lambda lane: scores[lane], reverse=True)
            done += [(scores[lane], lanes[lane]) for lane in order if lanes[lane].ended]
            kept = _distinct([lane for lane in order if not lanes[lane].ended], lanes)[: self.beams]
            beams = [lanes[lane] for lane in kept]
            if kept:
                session.commit(torch.tensor([kept]))
                if panel:
                    panel.commit(kept)
        best = max(done, key=lambda entry: entry[0])[1]
        return released(self.bench, best, candidate_tokens=sampled, panel=panel)

    def _sample(
        self, session: TreeSession, request: Request, beams: Sequence[Candidate], penalty: Tensor | None
    ) -> Block:
        room = min(self.block, self.bench.search.max_new_tokens - len(beams[0].ids))
        return sample_block(
            session,
            _parents(self.lanes, len(beams)),
            samplers=[self.bench.policy.sampler(request)],
            uniforms=request.uniforms(self.lanes, self.block)[None, :, :room],
            max_tokens=[room],
            stop_ids=self.bench.policy.stop_ids,
            penalties=[penalty],
            histories=[[[*request.prompt_ids, *beam.ids] for beam in beams]],
        )

    def _candidates(self, block: Block, beams: Sequence[Candidate], panel: Panel | None) -> list[Candidate]:
        """The sampled lanes, judged if there are judges."""
        parents = [beams[lane % len(beams)] for lane in range(self.lanes)]
        tokens, lengths = block.tokens.cpu(), block.lengths.cpu()
        if panel:
            index = _parents(self.lanes, len(beams))
            lanes = panel.judge(parents, tokens, lengths, block.finished.cpu(), beams=index)
        else:
            lanes = [
                Candidate(ids=(*parent.ids, *tokens[0, lane, : int(lengths[0, lane])].tolist()))
                for lane, parent in enumerate(parents)
            ]
        for lane, candidate in enumerate(lanes):
            candidate.hidden = block.hidden[0, lane]
            before = parents[lane].said
            total = block.total[0, lane] + (0 if before is None else len(parents[lane].ids) * before)
            candidate.said = total / max(1, len(candidate.ids))
            candidate.finished = bool(block.finished[0, lane])
            candidate.ended = candidate.finished or len(candidate.ids) >= self.bench.search.max_new_tokens
        return lanes

    def _penalty(self, block: Block) -> Tensor:
        """Shape (T, V): at block position i, the penalty on tokens that failed candidates used at i."""
        penalty = torch.zeros(block.tokens.shape[-1], self.bench.policy.tree.vocab_size)
        for lane in block.tokens[0].tolist():
            for position, token in enumerate(lane):
                if token >= 0:
                    penalty[position, token] = self.bench.search.retry_penalty
        return penalty


def released(bench: Bench, candidate: Candidate, *, candidate_tokens: int, panel: Panel | None) -> Answer:
    """A candidate as the answer."""
    return Answer(
        text=bench.policy.detokenizer.text(candidate.ids),
        token_ids=candidate.ids,
        finished=candidate.finished,
        candidate_tokens=candidate_tokens,
        judge_calls=panel.calls if panel else 0,
        judge_tokens=panel.tokens if panel else 0,
    )


def _parents(lanes: int, beams: int) -> Tensor:
    """Shape (1, L): the lanes over the beams in turn."""
    return (torch.arange(lanes) % beams).unsqueeze(0)


def _distinct(order: Sequence[int], lanes: Sequence[Candidate]) -> list[int]:
    """The first lane of each text: beams that repeat one another would waste lanes."""
    first: dict[tuple[int, ...], int] = {}
    for lane in order:
        first.setdefault(lanes[lane].ids, lane)
    return list(first.values())
