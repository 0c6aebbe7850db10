"""ARGS: alignment as reward-guided search, token by token (Khanov et al., arXiv 2402.01694)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ig_plugins.research.methods.base import Answer, Method, register
from ig_plugins.research.methods.blocks import Rule
from ig_plugins.research.methods.candidate_scorer import CandidateScorer
from ig_plugins.research.methods.context import Context
from ig_plugins.research.methods.rules import rule
from ig_plugins.search import Capacity

TOP_K = 20  # as published


@dataclass(frozen=True, eq=False)
class Args:
    """At every step the token with the highest logit + w·score of the prefix that it makes, among the k most likely.

    Greedy as in the paper: the seed plays no part.

    Attributes:
        context: Policy, judges, settings and w.
        rule: Scores prefixes.
        top_k: k.
    """

    context: Context
    rule: Rule
    top_k: int = TOP_K

    def answer(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Answer]:
        """See `Method`."""
        policy, longest = self.context.policy, self.context.search.max_new_tokens
        requests = [self.context.request(prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        k, stops = min(self.top_k, policy.engine.vocab_size), torch.tensor(sorted(policy.stop_ids))
        session = policy.engine.prefill([r.prompt_ids for r in requests], lanes=1, block=1, max_new=longest)
        scorer = CandidateScorer(self.context, capacity=Capacity(lanes=k, block=1, max_new=longest))
        scorer.add_rows(requests)
        rows, answers = list(range(len(requests))), {}
        while rows:
            logits, tokens = session.logits[:, 0].float().cpu().topk(k)  # type: ignore[index]  # (B, k) each
            beams, lengths = torch.zeros_like(tokens), torch.ones_like(tokens)
            lanes = scorer.judge(beams, tokens.unsqueeze(2), lengths, torch.isin(tokens, stops))
            scores = torch.tensor([list(self.rule(list(mine.values()))) for mine in lanes])
            best = (logits + self.context.weight * scores).argmax(dim=1, keepdim=True)
            scorer.advance(best)
            going = []
            for index, (row, (chosen,)) in enumerate(zip(rows, scorer.beams, strict=True)):
                if chosen.ended:
                    answers[row] = Answer.of(
                        self.context,
                        chosen.ids,
                        candidate_tokens=k * len(chosen.ids),
                        judge_calls=sum(session.calls[index] for session in scorer.sessions),
                        judge_tokens=sum(session.tokens[index] for session in scorer.sessions),
                    )
                else:
                    going.append(index)
            rows = [rows[index] for index in going]
            session.keep_rows(going)
            scorer.keep_rows(going)
            if rows:
                one = torch.zeros(len(rows), 1, dtype=torch.long)
                session.fork(one)
                session.extend(tokens.gather(1, best)[going], torch.ones_like(one, dtype=torch.bool))
                session.select(one)
        return [answers[row] for row in range(len(requests))]


@register("args-reward", "ARGS by reward", searches=False)
def by_reward(context: Context) -> Method:
    """Adds w·r to the logit."""
    return Args(context, rule("reward", context))


@register("args-lagrangian", "ARGS by reward - λ·cost", searches=False)
def by_lagrangian(context: Context) -> Method:
    """Adds w·(r - λ·cost) to the logit."""
    return Args(context, rule("lagrangian", context))


@register("args-cost", "ARGS by -cost", searches=False)
def by_cost(context: Context) -> Method:
    """Takes w·cost off the logit."""
    return Args(context, rule("cost", context))
