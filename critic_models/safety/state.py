"""The augmented safety state z: the unspent safety budget (paper, section 3; Sauté RL, arXiv 2202.06558).

Pure functions on tensors. A state has any shape (...); costs have one more axis T, the steps.
"""

import torch
from torch import Tensor

from critic_models.safety.budget import SafetyBudget


def initial_state(budget: SafetyBudget, shape: tuple[int, ...] = (), *, device: torch.device | str = "cpu") -> Tensor:
    """The state before the first token: d if cost accumulates, +inf if only the worst score counts.

    Returns:
        float64 tensor of the given shape. Double precision, because γ^-T amplifies rounding.
    """
    start = budget.limit if budget.accounting == "cumulative" else float("inf")
    return torch.full(shape, start, dtype=torch.float64, device=device)


def advance(state: Tensor, costs: Tensor, budget: SafetyBudget) -> Tensor:
    """The states after each of T steps.

    ``cumulative``: z_{t+1} = (z_t - c_t) / γ, computed step by step, so that every intermediate state is exact.
    ``worst``: z_{t+1} = min(z_t, d - S_{t+1}), where the costs are the scores S of the response so far.

    Args:
        state: Shape (...), the state before the first step.
        costs: Shape (..., T).
        budget: Limit, discount and accounting.

    Returns:
        float64 states, shape (..., T); index t is the state after step t.
    """
    costs = costs.to(torch.float64)
    if budget.accounting == "worst":
        slack = torch.cat([state.unsqueeze(-1), budget.limit - costs], dim=-1)
        return slack.cummin(dim=-1).values[..., 1:]
    states = []
    for cost in costs.unbind(dim=-1):
        state = (state - cost) / budget.discount
        states.append(state)
    return torch.stack(states, dim=-1) if states else costs


def is_safe(state: Tensor, budget: SafetyBudget) -> Tensor:
    """Whether a state is safe: z > 0 strictly if cost accumulates, z >= 0 in the worst-case accounting.

    NaN is never safe: both comparisons are false for it.
    """
    return state > 0 if budget.accounting == "cumulative" else state >= 0


def reshaped_cost(task_cost: Tensor, state: Tensor, budget: SafetyBudget, *, penalty: float) -> Tensor:
    """The task cost while the state is safe, the penalty n otherwise (paper, section 3).

    Args:
        task_cost: Shape (...).
        state: Shape (...).
        budget: Decides what is safe.
        penalty: n, the cost of an unsafe state.
    """
    return torch.where(is_safe(state, budget), task_cost, torch.full_like(task_cost, penalty))
