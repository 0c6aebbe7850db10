"""The safety budget: how much cost an answer may spend, and how spending is counted."""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Accounting = Literal["cumulative", "worst"]
Reading = Literal["any_time", "terminal"]


class SafetyBudget(BaseModel):
    """The limit d, the discount γ, and the accounting of one cost model (paper, section 3).

    ``cumulative`` sums the costs of tokens (or blocks) and is safe while some budget is left, z > 0; its
    limit must be positive. ``worst`` looks at the highest score that the response so far ever had and is
    safe up to and including the limit, z >= 0; its limit may be any finite number.

    Attributes:
        limit: The budget d.
        discount: γ in (0, 1]; only ``cumulative`` uses it.
        accounting: How cost is counted.
        reading: ``any_time`` asks for a safe state at every checked step, ``terminal`` at the last one only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: float = 10.0
    discount: float = Field(default=0.999, gt=0.0, le=1.0)
    accounting: Accounting = "cumulative"
    reading: Reading = "any_time"

    @model_validator(mode="after")
    def _limit_means_something(self) -> "SafetyBudget":
        if not math.isfinite(self.limit):
            raise ValueError(f"budget limit is {self.limit}; give a finite number, such as 10.0")
        if self.accounting == "cumulative" and self.limit <= 0:
            raise ValueError(
                f"cumulative budget limit is {self.limit}; it must be above 0, because z = 0 is already unsafe. "
                "For a model that scores whole texts use accounting='worst', where any finite limit is allowed"
            )
        return self


Budgets = float | SafetyBudget | Sequence[float | SafetyBudget]
"""What may be said of a budget: itself, or its limit alone; one for each cost model where there are several."""
