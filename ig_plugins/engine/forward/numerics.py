"""What counts as the same states."""

import torch
from torch import Tensor

# Largest difference of a state from the full forward's, relative to that state's norm. Kernels round differently;
# a token seen or missed changes states by far more.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may do to states in this dtype."""
    return TOLERANCES.get(dtype, 1e-1)


def ordinary_ids(count: int, vocabulary: int, random: torch.Generator) -> list[int]:
    """Random tokens from the middle half of a vocabulary.

    Special and unused tokens stand at its ends. A model was hardly trained on them, and what it makes of them can be
    huge values that cancel late, of which half precision leaves rounding alone: such states tell nothing.
    """
    return torch.randint(vocabulary // 4, vocabulary - vocabulary // 4, (count,), generator=random).tolist()


def differences(found: Tensor, wanted: Tensor) -> Tensor:
    """The difference of every state (..., H), relative to the wanted one's norm: shape (...)."""
    wanted = wanted.float()
    relative: Tensor = (found.float() - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-12)
    return relative


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference between states (..., H), relative to the wanted states' norms; NaN if any is."""
    return float(differences(found, wanted).max())
