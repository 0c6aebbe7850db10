"""The safety budget and the augmented safety state.

The budget is part of every command's options, so that importing it loads no torch; the state's functions do.
"""

from typing import TYPE_CHECKING, Any

from critic_models.safety.budget import Accounting, Reading, SafetyBudget

if TYPE_CHECKING:
    from critic_models.safety.state import advance, initial_state, is_safe, reshaped_cost

__all__ = ["Accounting", "Reading", "SafetyBudget", "advance", "initial_state", "is_safe", "reshaped_cost"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from critic_models.safety import state

    return getattr(state, name)
