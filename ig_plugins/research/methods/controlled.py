"""Controlled decoding, blockwise: the best of N blocks by a value function (Mudgal et al., arXiv 2310.17022)."""

from collections.abc import Sequence

import torch

from ig_plugins.research.methods.base import Method, register
from ig_plugins.research.methods.blocks import BlockMethod
from ig_plugins.research.methods.candidate_scorer import Candidate
from ig_plugins.research.methods.context import Context
from ig_plugins.research.methods.rules import rule
from ig_plugins.research.methods.value import trained_value


@register("controlled-decoding", "best of N blocks by a value network, no cost", trains=True)
def controlled(context: Context) -> Method:
    """Open candidates by their value, finished ones by their reward."""
    net, reward, search = trained_value(context, "reward"), rule("reward", context), context.search

    def scores(candidates: Sequence[Candidate]) -> list[float]:
        with torch.no_grad():
            predicted = net(torch.stack([c.hidden for c in candidates if c.hidden is not None]).float().cpu())
        known = reward(candidates)
        return [known[i] if c.ended else float(predicted[i]) for i, c in enumerate(candidates)]

    return BlockMethod(context, scores, lanes=search.candidates, beams=1, block=search.block_tokens)
