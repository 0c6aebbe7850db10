"""The safety budget and the augmented safety state.

Importing this package loads nothing: the budget, which is part of every command's options, is made of pydantic, and the
state's functions need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critic_models.safety.budget import Accounting, Budgets, Reading, SafetyBudget
    from critic_models.safety.state import advance, initial_state, is_safe, reshaped_cost

__all__ = [
    "Accounting",
    "Budgets",
    "Reading",
    "SafetyBudget",
    "advance",
    "initial_state",
    "is_safe",
    "reshaped_cost",
]

_OF_BUDGETS = ("Accounting", "Budgets", "Reading", "SafetyBudget")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{'budget' if name in _OF_BUDGETS else 'state'}"), name)
    globals()[name] = value
    return value
