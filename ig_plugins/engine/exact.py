"""What counts as the same states."""

import torch
from torch import Tensor

# Largest difference of a state from the full forward's, relative to that state's norm. Kernels round differently;
# a token seen or missed changes states by far more.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may do to states in this dtype."""
    return TOLERANCES.get(dtype, 1e-1)


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference between states (..., H), relative to the wanted states' norms; NaN if any is."""
    wanted = wanted.float()
    apart = (found.float() - wanted).norm(dim=-1)
    return float((apart / wanted.norm(dim=-1).clamp(min=1e-12)).max())
