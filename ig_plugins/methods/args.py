"""ARGS: alignment as reward-guided search, token by token (Khanov et al., arXiv 2402.01694)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ig_plugins.methods.base import Answer, Method, register
from ig_plugins.methods.bench import Bench
from ig_plugins.methods.blocks import Rule, released
from ig_plugins.methods.panel import Panel
from ig_plugins.methods.rules import rule
from ig_plugins.search import Capacity, Request

TOP_K = 20  # as published


@dataclass(frozen=True, eq=False)
class Args:
    """At every step the token with the highest logit + w·score of the prefix that it makes, among the k most likely.

    Greedy as in the paper: the seed plays no part.

    Attributes:
        bench: Policy, judges, settings and w.
        rule: Scores prefixes.
        top_k: k.
    """

    bench: Bench
    rule: Rule
    top_k: int = TOP_K

    def answer(self, prompts: Sequence[str], *, seed: int) -> list[Answer]:
        """See `Method`."""
        return [self._one(self.bench.request(prompt, seed=seed)) for prompt in prompts]

    def _one(self, request: Request) -> Answer:
        policy, longest = self.bench.policy, self.bench.search.max_new_tokens
        k = min(self.top_k, policy.tree.vocab_size)
        session = policy.tree.plant([request.prompt_ids], lanes=1, block=1, max_new=longest)
        panel = Panel(self.bench, request, capacity=Capacity(lanes=k, block=1, max_new=longest))
        parents, one = torch.zeros(1, k, dtype=torch.long), torch.ones(1, k, dtype=torch.long)
        chosen, sampled = panel.start(), 0
        while not chosen.ended:
            logits, tokens = session.logits[0, 0].float().cpu().topk(k)  # type: ignore[index]
            finished = torch.tensor([[int(token) in policy.stop_ids for token in tokens]])
            lanes = panel.judge([chosen] * k, tokens.view(1, k, 1), one, finished, beams=parents)
            guided = logits + self.bench.weight * torch.tensor(self.rule(lanes))
            best = int(guided.argmax())
            chosen, sampled = lanes[best], sampled + k
            chosen.ended = chosen.finished or len(chosen.ids) >= longest
            panel.commit([best])
            if not chosen.ended:
                session.branch(torch.zeros(1, 1, dtype=torch.long))
                session.extend(tokens[best].view(1, 1), torch.ones(1, 1, dtype=torch.bool))
                session.commit(torch.zeros(1, 1, dtype=torch.long))
        return released(self.bench, chosen, candidate_tokens=sampled, panel=panel)


@register("args-reward", "ARGS by reward", searches=False)
def by_reward(bench: Bench) -> Method:
    """Adds w·r to the logit."""
    return Args(bench, rule("reward", bench))


@register("args-lagrangian", "ARGS by reward - λ·cost", searches=False)
def by_lagrangian(bench: Bench) -> Method:
    """Adds w·(r - λ·cost) to the logit."""
    return Args(bench, rule("lagrangian", bench))


@register("args-cost", "ARGS by -cost", searches=False)
def by_cost(bench: Bench) -> Method:
    """Takes w·cost off the logit."""
    return Args(bench, rule("cost", bench))
