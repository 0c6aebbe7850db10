"""The penalty of a retry: a block of which no lane passed is drawn again, away from the tokens that failed.

Belongs to the block search (its M tries); a penalty of 0 draws again from the policy as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ig_plugins.search.lanes import Lanes


def retry_penalty(lanes: Lanes, index: int, vocab_size: int) -> Tensor | None:
    """Shape (T, V): at block position i, the penalty on every token that a failed candidate used at i; None for 0."""
    row = lanes.rows[index]
    if row.request.search.retry_penalty == 0:
        return None
    penalty = torch.zeros(row.request.search.block_tokens, vocab_size)
    for lane in lanes.lengths[index].nonzero().flatten().tolist():
        for position, token in enumerate(lanes.block(index, lane)):
            penalty[position, token] = row.request.search.retry_penalty
    return penalty if row.retry_penalty is None else torch.maximum(penalty, row.retry_penalty)
