"""The unguarded answer, to be put beside a guarded one: it is shown to operators and released to nobody."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ig_plugins.guard import Components
from ig_plugins.page.document import Unguarded
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.runtime.judging import judges_at_work
from ig_plugins.runtime.one_lane import sample_answer
from ig_plugins.runtime.openmp import release_openmp_threads
from ig_plugins.runtime.question import Question
from ig_plugins.search import Capacity, Request, Trail
from ig_plugins.search.scoring.judge_session import Ask, JudgeSession
from ig_plugins.search.text import Whole
from ig_plugins.search.trace import CostLine, figures
from ig_plugins.search.verifier import Scored, Track


@torch.inference_mode()
def unguarded(parts: Components, request: Request) -> Unguarded:
    """Samples one lane of the policy to its end, and asks the judges afterwards; searches have their turn in between.

    Args:
        parts: The policy and the judges.
        request: Says how to sample, and what may be spent. Its draws are used up: give one of its own.

    Raises:
        JudgeError: A judge failed, or took longer than the request allows.
        DeadlineExceededError, RequestCancelledError: The request's time is over, or it was cancelled.
    """
    ids, text = sample_answer(parts.policy, request)
    size = Capacity(lanes=1, block=request.search.block_tokens, max_new=request.search.max_new_tokens)
    costs, reward = parts.judge_sessions(size, call=lambda ask: _asked(ask, request))
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


def _asked(ask: Ask, request: Request) -> list[float]:
    """The scores of a judge of texts, within the request's ``judge_timeout`` and its deadline, as in a search."""
    question = Question(ask, {request: judges_at_work()})
    scores = question.scores(lambda seconds: None)
    if error := question.failed.get(request) or request.interruption():
        raise error
    return scores


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
