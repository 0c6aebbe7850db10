"""InferenceGuard's block search (paper, section 4), for many prompts at once.

    beams <- {prompt, z = budget}
    for each block:
        for try in 1..M:
            from every beam sample N/K continuations of up to d tokens
            advance z along every candidate; score every candidate
            if some candidate is judged safe: stop trying
        verified finished candidates leave the pool as answers; keep the K best of the rest
        stop when no open beam can beat the best finished answer, or none is open
    return the best verified answer, else abstain

Every prompt is a row with its own clock: a row whose block failed tries again while the others go on, rows may join
and leave between blocks, and none changes the answer of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ig_plugins.engine import Block, Matcher
from ig_plugins.errors import InferenceGuardError
from ig_plugins.search.cuts import cut_at_stop_strings, cut_half_characters
from ig_plugins.search.fair_draw import draw_answer, draw_particles, draw_within_max_lag
from ig_plugins.search.lanes import Answer, Lanes, Row, distinct, pad
from ig_plugins.search.policy import Policy, PolicySession
from ig_plugins.search.request import Request
from ig_plugins.search.retry_penalty import retry_penalty
from ig_plugins.search.scoring.base import Judgement, Scoring
from ig_plugins.search.selection import (
    Opened,
    answer_of,
    best_answer,
    contenders,
    mean_states,
    refuse_again,
    spread,
    step_of,
    within_max_lag,
)
from ig_plugins.search.text import showable
from ig_plugins.search.trajectory import Border, Step, common_ancestor


@dataclass(frozen=True)
class Capacity:
    """What the buffers of a search were made for."""

    lanes: int
    block: int
    max_new: int

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Capacity:
        """Room for these requests. Beside its candidates a row needs a lane per beam, to keep beams on a retry."""
        searches = [request.search for request in requests]
        return cls(
            lanes=max(search.widest for search in searches) + max(search.beams for search in searches),
            block=max(min(search.block_tokens, search.max_new_tokens) for search in searches),
            max_new=max(search.max_new_tokens for search in searches),
        )

    @classmethod
    def around(cls, requests: Sequence[Request], *, context: int | None) -> Capacity:
        """Room for the first request, and for those of the others that go with it."""
        chosen = [requests[0]]
        for request in requests[1:]:
            size = cls.of([*chosen, request])
            if all(size.holds(each, context=context) for each in [*chosen, request]):
                chosen.append(request)
        return cls.of(chosen)

    def holds(self, request: Request, *, context: int | None) -> bool:
        """Whether a request fits: into the buffers, and into the context beside the longest answer of the others."""
        own = Capacity.of([request])
        fits = own.max_new == self.max_new or context is None or len(request.prompt_ids) + self.max_new <= context
        return fits and self.lanes >= own.lanes and self.block >= own.block and self.max_new >= own.max_new


@dataclass(frozen=True)
class Outcome:
    """How a row ended: with an answer, without one, or with an error."""

    row: Row
    answer: Answer | None = None
    error: InferenceGuardError | None = None

    @property
    def empty(self) -> bool:
        """Whether the search found nothing that may leave, or no answer that is whole and whose calls are valid.

        Of an answer with invalid calls a stream may have shown the words before them. Then it stays, also where nobody
        listens, so that a stream and a whole answer are the same; the form of a whole answer counts for more than that.
        """
        if self.answer is None:
            return self.error is None
        return not self.answer.fits and (self.row.request.has_form or not self.row.released.text)


class BlockSearch:
    """The search over a changing set of rows.

    Args:
        policy: Samples.
        scoring: Judges.
        capacity: The largest rows that may join.
        on_release: Told of (row, text so far) when text of a streaming request may leave.
        keep_states: The scoring reads the policy's states at every token.
    """

    def __init__(
        self,
        policy: Policy,
        scoring: Scoring,
        *,
        capacity: Capacity,
        on_release: Callable[[Row, str], None] = lambda row, text: None,
        keep_states: bool = False,
    ) -> None:
        self.policy, self.scoring, self.capacity = policy, scoring, capacity
        self.rows: list[Row] = []
        self._on_release, self._keep_states = on_release, keep_states
        self._session: PolicySession | None = None

    def add_rows(self, requests: Sequence[Request]) -> None:
        """Adds rows, between blocks."""
        size = self.capacity
        prompts = [request.prompt_ids for request in requests]
        if self._session is None or self._session.rows == 0:
            self._session = self.policy.tree.prefill(prompts, lanes=size.lanes, block=size.block, max_new=size.max_new)
        else:
            self._session.add_rows(prompts)
        trails = self.scoring.add_rows(requests, [len(row.beams) for row in self.rows])
        for request, trail in zip(requests, trails, strict=True):
            root = Step(trail=trail)
            narrow = request.search.adaptive == "on" and self.scoring.has_critic
            first = self.policy.first_block(request)
            released = Border(root, 0, "", trail)
            self.rows.append(Row(request, beams=[root], released=released, first_block=first, narrow=narrow))

    def step(self) -> list[Outcome]:
        """Searches one block of every row.

        Returns:
            The rows that ended; they are no longer part of the search.
        """
        ended = [Outcome(row, error=error) for row in self.rows if (error := row.request.interruption())]
        self._drop([outcome.row for outcome in ended])
        if not self.rows:
            return ended
        lanes = self._sample()
        judgement = self.scoring.judge(lanes)
        refuse_again(lanes, judgement)
        watched = self._watched(lanes, judgement)
        kept = [self._select(lanes, judgement, index) for index in range(len(self.rows))]
        beams = pad(kept)
        self.scoring.advance(lanes, beams)
        self._opened_session().select(beams)
        self._release()
        for each in watched:
            each(kept)
        done = [self._outcome(row) for row in self.rows if not row.beams]
        again = [outcome for outcome in done if outcome.empty and outcome.row.may_restart]
        self._drop([outcome.row for outcome in done])
        if again:
            self._restart(again)
        return ended + [outcome for outcome in done if outcome not in again]

    def _watched(self, lanes: Lanes, judgement: Judgement) -> list[Callable[[list[list[int]]], None]]:
        """Lets whoever watches a row look at its lanes; each is to be told what was kept when the block is done."""

        def told(done: Callable[[Sequence[int]], None], index: int) -> Callable[[list[list[int]]], None]:
            return lambda kept: done(kept[index])

        return [
            told(watcher.judged(lanes, judgement, index, ranks=self.scoring.ranks), index)
            for index, row in enumerate(self.rows)
            if (watcher := row.request.watcher) is not None
        ]

    def _sample(self) -> Lanes:
        """Forks every row's beams into lanes and samples one block on them."""
        sampled = [spread(row) for row in self.rows]
        width = max(len(lanes) for lanes in sampled)
        stays = pad([list(range(len(row.beams))) for row in self.rows])
        parents = torch.cat([pad(sampled), stays], dim=1)
        session, depth = self._opened_session(), max(row.block_tokens for row in self.rows)
        room = torch.zeros_like(parents)
        uniforms = torch.zeros(*parents.shape, depth, dtype=torch.float64)
        for index, (row, lanes) in enumerate(zip(self.rows, sampled, strict=True)):
            room[index, : len(lanes)] = row.block_tokens
            uniforms[index, : len(lanes), : row.block_tokens] = row.request.uniforms(
                len(lanes), row.block_tokens, beams=len(row.beams)
            )
        block = session.sample(
            parents,
            samplers=[self.policy.sampler(row.request) for row in self.rows],
            uniforms=uniforms,
            max_tokens=room,
            stop_ids=self.policy.stop_ids,
            penalties=[row.retry_penalty for row in self.rows],
            histories=self._histories(),
            matchers=self._matchers(),
            on_step=self._check_interrupted,
            keep_states=self._keep_states,
        )
        return self._lanes(parents, block, stays=width)

    def _lanes(self, parents: Tensor, block: Block, *, stays: int) -> Lanes:
        """The sampled block with stop strings cut and full answers ended."""
        lanes = Lanes(
            rows=self.rows,
            parents=parents,
            stays=stays,
            tokens=block.tokens.cpu(),
            lengths=block.lengths.cpu(),
            natural=block.finished.cpu(),
            ended=block.finished.cpu().clone(),
            hidden=block.hidden,
            mean_hidden=mean_states(self.rows, parents, block),
            states=block.states,
            detokenizer=self.policy.detokenizer,
            encode=self.policy.encode,
        )
        for index, row in enumerate(self.rows):
            sampled = lanes.lengths[index].clone()
            if row.request.stop or row.request.stop_ids:
                cut_at_stop_strings(lanes, index)
            if row.room <= row.block_tokens:
                lanes.ended[index] |= lanes.lengths[index] == row.block_tokens
                cut_half_characters(lanes, index)
            row.sampled += int((sampled > 0).sum())
            row.sampled_tokens += int(sampled.sum())
        return lanes

    def _select(self, lanes: Lanes, judgement: Judgement, index: int) -> list[int]:
        """Keeps a row's answers and picks the lanes that become its beams.

        Returns:
            The lanes to keep: safe open ones, best first; the beams as they were if the block is to be tried again;
            nothing if the row has come to its end.
        """
        row = self.rows[index]
        if row.narrow and not bool(judgement.confident[index].any()):
            row.widen()
            return [lanes.stays + beam for beam in range(len(row.beams))]
        accepted = judgement.confident if row.narrow else judgement.safe
        safe = [lane for lane, ok in enumerate(accepted[index].tolist()) if ok]
        row.tries_made += not safe
        if not safe and not row.last_try:
            row.fail(retry_penalty(lanes, index, self.policy.tree.vocab_size))
            return [lanes.stays + beam for beam in range(len(row.beams))]
        if self.scoring.ranks:
            opened = within_max_lag(self._best(lanes, judgement, index, safe), row)
        else:
            opened = draw_within_max_lag(draw_particles(lanes, judgement, index, safe), row)
        row.next_block([step for _, step in opened])
        return [lane for lane, _ in opened]

    def _best(self, lanes: Lanes, judgement: Judgement, index: int, safe: Sequence[int]) -> Opened:
        """The K best safe open lanes; none if no one can beat the best finished answer."""
        row = self.rows[index]
        order = sorted(safe, key=lambda lane: float(judgement.score[index, lane]), reverse=True)
        opened: Opened = []
        for lane in distinct(lanes, index, order):
            step = step_of(lanes, judgement, (index, lane), safe=len(safe))
            if lanes.ended[index, lane]:
                row.finished.append(answer_of(lanes, judgement, (index, lane), step))
            elif len(opened) < row.beam_count:
                opened.append((lane, step))
        best = max(
            (answer.step.score for answer in row.finished if answer.fits), default=-torch.inf
        )  # both scores are discounted
        return [] if opened and best >= opened[0][1].score + self.scoring.optimism else opened

    def _opened_session(self) -> PolicySession:
        if self._session is None:
            raise InferenceGuardError("the search has no rows; add requests before stepping")
        return self._session

    def _release(self) -> None:
        """Lets text leave that no later block can change, once the judges have passed exactly that text.

        Where nobody listens it is judged all the same, so that a stream and a whole answer are found alike.
        """
        borders = [self._next_border(row) for row in self.rows]
        judged = self.scoring.release(self.rows, borders) if any(borders) else borders
        for row, border in zip(self.rows, judged, strict=True):
            if row.request.interruption():
                continue
            if border is not None and not border.trail.may_leave():
                row.refuse_border(border)
            elif border is not None:
                row.pass_border(border)
                if row.request.stream:
                    row.request.begun = True
                    self._on_release(row, border.text)
            if row.beams:
                row.lag = max(row.lag, len(row.beams[0]) - row.released.tokens)

    def _next_border(self, row: Row) -> Border | None:
        """Up to where a row's text could leave now; None if there is nothing new."""
        if not row.beams or row.attempt > 0:
            return None
        given = row.finished if not self.scoring.ranks else contenders(row)
        step = common_ancestor([*row.beams, *(answer.step for answer in given)])
        if row.narrow and len(step.path()) - len(row.released.step.path()) < row.blocks_per_release:
            return None
        tokens, text = showable(self.policy.detokenizer, row.request, step.token_ids())
        new = tokens > row.released.tokens and text.startswith(row.released.text)
        return Border(step, tokens, text, row.released.trail) if new else None

    def _outcome(self, row: Row) -> Outcome:
        """How a row ends whose beams are gone; after the deadline nothing leaves any more."""
        if error := row.request.interruption():
            return Outcome(row, error=error)
        answer = best_answer(row) if self.scoring.ranks else draw_answer(row)
        return Outcome(row, answer=answer or row.reserve)

    def _restart(self, ended: Sequence[Outcome]) -> None:
        """Searches again from the prompt, with fresh draws, where every beam ran into a dead end."""
        self.add_rows([outcome.row.request for outcome in ended])
        for fresh, old in zip(self.rows[-len(ended) :], ended, strict=True):
            fresh.inherit(old.row)
            fresh.reserve = old.answer

    def _drop(self, gone: Sequence[Row]) -> None:
        if not gone:
            return
        stay = []
        for index, row in enumerate(self.rows):
            if any(row is other for other in gone):
                row.judge_calls += sum(session.calls[index] for session in self.scoring.sessions)
                row.judge_tokens += sum(session.tokens[index] for session in self.scoring.sessions)
            else:
                stay.append(index)
        self.rows = [self.rows[index] for index in stay]
        if self._session is not None:
            self._session.keep_rows(stay)
        self.scoring.keep_rows(stay)

    def _check_interrupted(self) -> None:
        """Stops in the middle of a block when nobody waits for any row any more."""
        interruptions = [row.request.interruption() for row in self.rows]
        if all(interruptions) and interruptions[0]:
            raise interruptions[0]

    def _matchers(self) -> list[list[Matcher] | None]:
        """What each row's grammar allows at its beams; read anew every block, which takes microseconds a token."""
        return [
            None
            if (grammar := row.request.grammar) is None
            else [grammar.after(each.token_ids()) for each in row.beams]
            for row in self.rows
        ]

    def _histories(self) -> list[list[list[int]]]:
        """The ids up to every beam, which logits processors read."""
        return [[[*row.request.prompt_ids, *beam.token_ids()] for beam in row.beams] for row in self.rows]
