"""The verifier for text that no token path stands for: an answer that a stop string cut inside a token.

Everything else is verified where it is scored, token by token, by the cost models on their trees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from critic_models.errors import JudgeError
from critic_models.judges import Judge, TokenJudge
from ig_plugins.safety import advance, initial_state, is_safe
from ig_plugins.search.request import Request


class TextVerifier:
    """Asks every cost model for exactly one text, from scratch, by its plain forward.

    Args:
        costs: The cost models.
    """

    def __init__(self, costs: Sequence[Judge]) -> None:
        self._costs = costs

    def passes(self, request: Request, text: str) -> bool:
        """Whether all cost models accept this response to the request's prompt."""
        return all(self._safe(judge, request, budget_index, text) for budget_index, judge in enumerate(self._costs))

    def _safe(self, judge: Judge, request: Request, cost: int, text: str) -> bool:
        budget = request.budgets[cost]
        scores = self._scores(judge, request, text)
        if not torch.isfinite(scores).all():
            raise JudgeError(f"{judge.name} returned NaN or an infinite score; no text is released on such a verdict")
        states = advance(initial_state(budget), scores, budget)
        ok = is_safe(states, budget)
        return bool(ok.all() if budget.reading == "any_time" else ok[-1:].all())

    @staticmethod
    def _scores(judge: Judge, request: Request, text: str) -> torch.Tensor:
        if not isinstance(judge, TokenJudge):
            return torch.tensor(judge.score([request.judge_prompt], [request.prefill_text + text], finished=[False]))
        encoded = judge.tokenizer.encode(text, add_special_tokens=False)
        response = [*request.prefill_ids, *encoded]
        ids = torch.tensor([[*request.judge_ids, *response]], device=judge.body.device)
        scores = judge.score_tokens(ids, torch.ones_like(ids))
        return scores[0, len(request.judge_ids) :].float().cpu()
