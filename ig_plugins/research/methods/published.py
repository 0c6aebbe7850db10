"""InferenceGuard as published: the same search without a verifier, so that it always answers (paper, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ig_plugins.research.methods.base import Method, register
from ig_plugins.research.methods.blocks import BlockMethod, Rule
from ig_plugins.research.methods.candidate_scorer import Candidate
from ig_plugins.research.methods.context import Context
from ig_plugins.research.methods.rules import rule


@register("inferenceguard-published", "InferenceGuard as published: no verifier, never refuses")
def published(context: Context) -> Method:
    """Candidates judged unsafe are kept when all are: then an unsafe answer is the answer."""
    search = context.search
    return BlockMethod(
        context,
        _table(context),
        lanes=search.candidates,
        beams=search.beams,
        block=search.block_tokens,
        tries=search.tries,
    )


def _table(context: Context) -> Rule:
    """The table of scores: γ^T·r if finished; the critic's value or the partial text's r if open; -n if unsafe."""
    reward = rule("reward", context)

    def scores(candidates: Sequence[Candidate]) -> list[float]:
        gammas = [budget.discount for budget in context.budgets if budget.accounting == "cumulative"]
        safe = [candidate.safe for candidate in candidates]
        value = list(reward(candidates))
        predicted = _predict(context, candidates) if context.critic else None
        for index, candidate in enumerate(candidates):
            if candidate.ended:
                value[index] *= min(gammas, default=1.0) ** len(candidate.ids)
            elif predicted is not None:
                likely, value[index] = predicted[index]
                safe[index] = likely
        return [score if ok else -torch.inf for score, ok in zip(value, safe, strict=True)]

    return scores


@torch.inference_mode()
def _predict(context: Context, candidates: Sequence[Candidate]) -> list[tuple[bool, float]]:
    """Per candidate whether the critic holds a safe end for likelier than not, and its expected reward."""
    if context.critic is None:
        return []
    hidden = torch.stack([c.hidden for c in candidates if c.hidden is not None]).float()
    state = torch.tensor([candidate.states for candidate in candidates], device=hidden.device)
    mean_hidden = torch.stack([c.mean_hidden for c in candidates if c.mean_hidden is not None])
    logit, value = context.critic(hidden, state.float(), mean_hidden)
    return [(bool(odds > 0), float(reward)) for odds, reward in zip(logit, value, strict=True)]
