"""The safety budget and the augmented safety state."""

from critic_models.safety.budget import Accounting, Reading, SafetyBudget
from critic_models.safety.state import advance, initial_state, is_safe, reshaped_cost

__all__ = ["Accounting", "Reading", "SafetyBudget", "advance", "initial_state", "is_safe", "reshaped_cost"]
