"""One plain sample of the policy, judged by nobody and released to nobody: guarded answers are compared with it."""

from __future__ import annotations

import torch

from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.search import Policy, Request
from ig_plugins.search.text import first_stop


@torch.inference_mode()
def sample_answer(policy: Policy, request: Request, *, block: int | None = None) -> tuple[list[int], str]:
    """Samples one lane to its end, and ends it where the search would: at a stop string, and before half a character.

    Searches of the process have their turn between the blocks.

    Args:
        policy: Samples.
        request: Says how. Its draws are used up: give one of its own.
        block: Tokens between two turns; those of the request's blocks by default, with which the draws are those of a
            search of one lane.

    Returns:
        The answer's tokens and its text.

    Raises:
        DeadlineExceededError, RequestCancelledError: The request's time is over, or it was cancelled.
    """
    ids: list[int] = []
    most, more = request.search.max_new_tokens, True
    size = block or request.search.block_tokens
    first = torch.zeros(1, 1, dtype=torch.long)
    with torch_lock:
        session = policy.tree.prefill([request.prompt_ids], lanes=1, block=size, max_new=most)
    while more and len(ids) < most:
        if error := request.interruption():
            raise error
        room = min(size, most - len(ids))
        with torch_lock:
            sampled = session.sample(
                first,
                samplers=[policy.sampler(request)],
                uniforms=request.uniforms(1, room).unsqueeze(0),
                max_tokens=torch.tensor([[room]]),
                stop_ids=policy.stop_ids | request.stop_ids,
                histories=[[[*request.prompt_ids, *ids]]],
            )
            session.select(first)
        ids += sampled.tokens[0, 0, : int(sampled.lengths[0, 0])].tolist()
        more = not bool(sampled.finished[0, 0]) and _stop(policy, request, ids) is None
    if more:
        ids = ids[: policy.detokenizer.whole_characters(request, ids)]
    elif request.stop_ids.intersection(ids[-1:]):
        ids = ids[:-1]
    text, at = policy.detokenizer.answer(request, ids), _stop(policy, request, ids)
    if at is None:
        return ids, text
    while ids and len(policy.detokenizer.answer(request, ids[:-1])) >= at:
        ids = ids[:-1]
    return ids, text[:at]


def _stop(policy: Policy, request: Request, ids: list[int]) -> int | None:
    """Where a stop string begins in the answer's text."""
    return first_stop(policy.detokenizer.answer(request, ids), request.stop) if request.stop else None
