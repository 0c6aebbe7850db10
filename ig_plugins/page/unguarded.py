"""The unguarded answer, to be put beside a guarded one: it is shown to operators and released to nobody."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ig_plugins.guard import Components
from ig_plugins.page.document import Unguarded
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.runtime.openmp import release_openmp_threads
from ig_plugins.search import Capacity, Request, Trail
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.text import Whole, first_stop
from ig_plugins.search.trace import CostLine, figures
from ig_plugins.search.verifier import Scored, Track


@torch.inference_mode()
def unguarded(parts: Components, request: Request) -> Unguarded:
    """Samples one lane of the policy to its end, block by block, and asks the judges afterwards.

    Searches of the process have their turn between the blocks.

    Args:
        parts: The policy and the judges.
        request: Says how to sample, and what may be spent. Its draws are used up: give one of its own.

    Raises:
        JudgeError: A judge failed.
        DeadlineExceededError, RequestCancelledError: The request's time is over, or it was cancelled.
    """
    ids = _sampled(parts, request)
    text = parts.policy.detokenizer.answer(request, ids)
    at = first_stop(text, request.stop)
    if at is not None:
        text = text[:at]
        while ids and len(parts.policy.detokenizer.answer(request, ids[:-1])) >= at:
            ids = ids[:-1]
    size = Capacity(lanes=1, block=request.search.block_tokens, max_new=request.search.max_new_tokens)
    costs, reward = parts.judge_sessions(size)
    with torch_lock:
        for session in [*costs, *([reward] if reward else [])]:
            session.add_rows([request])
    ends = [*range(request.search.block_tokens, len(ids), request.search.block_tokens), len(ids)]
    prefixes = [_whole(parts, request, ids[:end], finished=end == len(ids)) for end in ends]
    tracks = []
    for session, budget in zip(costs, request.budgets, strict=True):
        track = Track.start(budget)
        for found in _scores(session, prefixes if session.reads_text else prefixes[-1:]):
            track = track.extended(found, budget)
        tracks.append(track)
    trail = Trail(tuple(tracks), request.budgets)
    names = zip(parts.costs, request.budgets, tracks, strict=True)
    result = Unguarded(
        text=text,
        tokens=len(ids),
        over_budget=not trail.may_leave(),
        costs=figures(trail)[0],
        lines=tuple(CostLine.along(name, budget, track) for name, budget, track in names),
        reward=float(_scores(reward, prefixes[-1:])[0].scores[-1]) if reward and ids else None,
    )
    release_openmp_threads()
    return result


def _sampled(parts: Components, request: Request) -> list[int]:
    """The tokens of one lane."""
    policy, search = parts.policy, request.search
    ids: list[int] = []
    with torch_lock:
        session = policy.tree.prefill(
            [request.prompt_ids], lanes=1, block=search.block_tokens, max_new=search.max_new_tokens
        )
    while len(ids) < search.max_new_tokens:
        if error := request.interruption():
            raise error
        room = min(search.block_tokens, search.max_new_tokens - len(ids))
        with torch_lock:
            block = session.sample(
                torch.zeros(1, 1, dtype=torch.long),
                samplers=[policy.sampler(request)],
                uniforms=request.uniforms(1, room).unsqueeze(0),
                max_tokens=torch.tensor([[room]]),
                stop_ids=policy.stop_ids,
                histories=[[[*request.prompt_ids, *ids]]],
            )
            session.select(torch.zeros(1, 1, dtype=torch.long))
        ids += block.tokens[0, 0, : int(block.lengths[0, 0])].tolist()
        if bool(block.finished[0, 0]) or first_stop(policy.detokenizer.answer(request, ids), request.stop) is not None:
            return ids
    return ids[: policy.detokenizer.whole_characters(request, ids)]  # as the search ends an answer without more room


def _whole(parts: Components, request: Request, ids: Sequence[int], *, finished: bool) -> Whole:
    detokenizer = parts.policy.detokenizer
    text = detokenizer.judged(request, ids, detokenizer.answer(request, ids))
    return Whole(0, request, text, tuple(ids), finished=finished)


def _scores(session: JudgeSession, responses: Sequence[Whole]) -> list[Scored]:
    """Judges of texts may themselves ask guards, which need torch."""
    if session.reads_text:
        return session.score_whole(responses)
    with torch_lock:
        return session.score_whole(responses)
