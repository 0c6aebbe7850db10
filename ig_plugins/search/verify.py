"""The verifier for text that no token path stands for: an answer that a stop string cut inside a token.

Everything else is verified where it is scored, token by token, by the cost models on their trees.
"""

from __future__ import annotations

from collections.abc import Sequence

from ig_plugins.safety import advance, initial_state, is_safe
from ig_plugins.search.follow import Follower
from ig_plugins.search.lanes import Lanes


def cut_passes(costs: Sequence[Follower], lanes: Lanes, row: int, text: str) -> bool:
    """Whether all cost models accept exactly this answer, read from scratch.

    Args:
        costs: The cost models, in the order of the request's budgets.
        lanes: The open block.
        row: Whose answer it is.
        text: The answer as it would leave, without prefilled text.

    Raises:
        JudgeError: A judge failed, or gave a score that is not finite.
    """
    request = lanes.rows[row].request
    for follower, budget in zip(costs, request.budgets, strict=True):
        states = advance(initial_state(budget), follower.reread(row, request, text), budget)
        ok = is_safe(states, budget)
        if not bool(ok.all() if budget.reading == "any_time" else ok[-1:].all()):
            return False
    return True
