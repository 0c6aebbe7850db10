"""Scoring with the critic: it predicts where open candidates end; the judges read only what may leave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ig_plugins.search.lanes import Key, Lanes, Row, distinct
from ig_plugins.search.request import Request
from ig_plugins.search.scoring.base import (
    Judgement,
    discounted,
    read_prefills,
    reward_of_cut,
    verified_cut,
)
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.scoring.tool_calls import judged_apart
from ig_plugins.search.text import LaneText
from ig_plugins.search.trajectory import Border
from ig_plugins.search.verifier import Scored, Trail

if TYPE_CHECKING:
    from critic_models.critic import LatentCritic


SURE = math.log(0.95 / 0.05)  # log-odds of a safe end above which few lanes are enough


@dataclass(frozen=True)
class Passage:
    """Tokens of an answer that judges are to read behind those that they have read before.

    Attributes:
        ids: The tokens.
        after: How many tokens of the answer stand before them.
        text: The whole response up to their end, for judges of texts.
    """

    ids: Sequence[int]
    after: int
    text: LaneText


class CriticScoring:
    """The critic ranks; finished candidates are verified in its order until one of them passes.

    The judges stand at each row's border and read nothing beyond it but finalists and text to be released. So lanes
    carry the z of the border, not their own. A wrong critic costs reward or an abstention, never safety.

    Args:
        critic: Predicts safety and reward from the policy's hidden state.
        costs: One session a cost model.
        reward: The reward model's session, or None.
        optimism: How far an answer may exceed the critic's expectation; the search goes on for that much.
    """

    has_critic = True

    def __init__(
        self,
        critic: LatentCritic,
        costs: Sequence[JudgeSession],
        reward: JudgeSession | None,
        *,
        optimism: float,
    ) -> None:
        self._critic = critic
        self._costs, self._reward = list(costs), [reward] if reward else []
        self.sessions: Sequence[JudgeSession] = [*self._costs, *self._reward]
        self.ranks = reward is not None
        self.optimism = optimism if reward else math.inf
        self._rewarded: list[int] = []  # tokens of each row's released text that the reward model has read

    def add_rows(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Trail]:
        """See `Scoring`."""
        for session in self.sessions:
            session.add_rows(requests)
        self._rewarded += [0] * len(requests)
        return read_prefills(requests, self._costs, self.sessions, [1] * len(beams))

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See `Scoring`."""
        for session in self.sessions:
            session.keep_rows(rows)
        self._rewarded = [self._rewarded[row] for row in rows]

    def advance(self, lanes: Lanes, kept: Tensor) -> None:
        """See `Scoring`. The judges do not follow open beams."""

    def judge(self, lanes: Lanes) -> Judgement:
        """See `Scoring`."""
        logit, value = self._predict(lanes)
        safe, score = lanes.open & (logit > _f1_threshold(lanes)), value.clone()
        for index, row in enumerate(lanes.rows):
            if row.last_try and not safe[index].any():  # go on with the least doubtful: the verifier has the last word
                safe[index], score[index] = lanes.open[index], logit[index]
        judgement = Judgement(safe, score, self._confident(lanes, logit, value), {}, {}, foreseen=(logit, value))
        queues = [self._finalists(lanes, index, logit, value) for index in range(len(lanes.rows))]
        while any(finalists := [next(queue, []) for queue in queues]):
            for done in self._verify(lanes, finalists, judgement):
                queues[done] = iter(())
        return judgement

    def release(self, rows: Sequence[Row], borders: Sequence[Border | None]) -> list[Border | None]:
        """See `Scoring`. The cost models read from the last border to the new one, and stand there from now on."""
        passages = [[self._to_border(row, border)] for row, border in zip(rows, borders, strict=True)]
        found = self._read(self._costs, passages, move=True)
        return [
            border and replace(border, trail=row.released.trail.extended(mine))
            for row, border, (mine,) in zip(rows, borders, found, strict=True)
        ]

    @staticmethod
    def _to_border(row: Row, border: Border | None) -> Passage:
        """What lies between a row's last border and a new one."""
        before = row.released.tokens
        if border is None:
            return Passage((), before, LaneText("", finished=False))
        ids = border.step.token_ids()[before : border.tokens]
        return Passage(ids, before, LaneText(row.request.prefill_text + border.text, finished=False))

    def _predict(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """The critic's log-odds of a safe end and its expected discounted reward, both (B, L)."""
        states = torch.tensor([row.released.trail.state for row in lanes.rows], device=lanes.hidden.device)
        state = states.unsqueeze(1).expand(-1, lanes.parents.shape[1], -1)  # (B, L, C)
        logit, value = self._critic(lanes.hidden.float(), state.float(), lanes.mean_hidden)
        return logit.double().cpu(), value.double().cpu()

    def _confident(self, lanes: Lanes, logit: Tensor, value: Tensor) -> Tensor:
        """Open lanes (B, L) that need no wider search: sure to end safe, worth the usual, half of every sum unspent.

        A refusal is the surest way to end safe. So a lane that will be worth less than the policy's texts are on
        average calls for a wider search; one that is worth a little less than was expected does not, as the critic's
        value varies more than a wider search would gain (docs/performance.md, adaptive search).
        """
        confident = lanes.open & (logit > SURE)
        if self._reward:
            confident &= value > self._critic.usual_value - self._critic.value_error
        for index, row in enumerate(lanes.rows):
            pairs = zip(row.released.trail.state, row.request.budgets, strict=True)
            if any(budget.accounting == "cumulative" and state < budget.limit / 2 for state, budget in pairs):
                confident[index] = False
        return confident

    def _finalists(self, lanes: Lanes, row: int, logit: Tensor, value: Tensor) -> Iterator[list[int]]:
        """Finished lanes in rounds of K, the most valuable likely safe ones first; without a reward all at once."""
        ended = lanes.ended[row].nonzero().flatten().tolist()
        if not self.ranks:
            return iter([ended])
        order = sorted(ended, key=lambda lane: (bool(logit[row, lane] > 0), float(value[row, lane])), reverse=True)
        order = distinct(lanes, row, order)
        size = lanes.rows[row].request.search.beams
        return (order[at : at + size] for at in range(0, len(order), size))

    def _verify(self, lanes: Lanes, finalists: list[list[int]], judgement: Judgement) -> set[int]:
        """Lets the cost models, then the reward model, read finalists; enters those that pass.

        Returns:
            The rows that have a verified answer now.
        """
        passages = [[_finalist(lanes, (row, lane)) for lane in mine] for row, mine in enumerate(finalists)]
        found = self._read(self._costs, passages)
        passed: list[tuple[Key, Passage]] = []
        for row, mine in enumerate(finalists):
            for lane, passage, scored in zip(mine, passages[row], found[row], strict=True):
                key = (row, lane)
                before = lanes.rows[row].released.trail
                cut = key in lanes.cuts
                trail = verified_cut(self._costs, lanes, key, before) if cut else before.extended(scored)
                apart = judged_apart(self._costs, lanes, key, trail) if trail.may_leave() else None
                judgement.trails[key] = apart or trail
                if apart is not None:
                    passed.append((key, passage))
        self._reward_passed(lanes, passed, judgement)
        return {row for (row, _), _ in passed}

    def _reward_passed(self, lanes: Lanes, passed: list[tuple[Key, Passage]], judgement: Judgement) -> None:
        """Scores verified finalists: γ^T r, or 0 without a reward model."""
        ranked: list[list[tuple[Key, Passage]]] = [[] for _ in lanes.rows]
        for key, passage in passed:
            ranked[key[0]].append((key, passage))
        if passed:
            self._catch_up(lanes, [bool(mine) for mine in ranked])
        read = self._read(self._reward, [[passage for _, passage in mine] for mine in ranked]) if passed else []
        for row, mine in enumerate(ranked):
            for slot, (key, _) in enumerate(mine):
                judgement.safe[key], judgement.confident[key], judgement.score[key] = True, True, 0.0
                if self._reward:
                    cut = key in lanes.cuts
                    read_by = self._reward[0]
                    reward = reward_of_cut(read_by, lanes, key) if cut else float(read[row][slot][0].scores[-1])
                    judgement.rewards[key] = reward
                    judgement.score[key] = discounted(reward, lanes.depth(*key), lanes.rows[row].request.budgets)

    def _catch_up(self, lanes: Lanes, wanted: Sequence[bool]) -> None:
        """Moves the reward model to the borders of some rows, which it is asked about only now.

        A text may leave without its reward; so it reads all that has been released at once.
        """
        passages = []
        for index, row in enumerate(lanes.rows):
            border, read = row.released, self._rewarded[index]
            ids = border.step.token_ids()[read : border.tokens] if wanted[index] else []
            passages.append([Passage(ids, read, LaneText(row.request.prefill_text + border.text, finished=False))])
            self._rewarded[index] += len(ids)
        if not all(session.reads_text for session in self._reward):
            self._read(self._reward, passages, move=True)

    def _read(
        self, judges: Sequence[JudgeSession], passages: list[list[Passage]], *, move: bool = False
    ) -> list[list[list[Scored]]]:
        """Lets judges read passages after the borders.

        Args:
            judges: Who reads.
            passages: Per row what to read.
            move: The rows' first passages become the new released text of these judges.

        Returns:
            Scores by [row][passage][judge].
        """
        width = max(len(row) for row in passages)
        longest = max((len(passage.ids) for row in passages for passage in row), default=0)
        parents = torch.full((len(passages), width), -1)
        lengths = torch.zeros(len(passages), width, dtype=torch.long)
        tokens = torch.zeros(len(passages), width, max(longest, 1), dtype=torch.long)
        for row, mine in enumerate(passages):
            for slot, passage in enumerate(mine):
                parents[row, slot] = 0
                lengths[row, slot] = len(passage.ids)
                tokens[row, slot, : len(passage.ids)] = torch.tensor(list(passage.ids), dtype=torch.long)
        found: list[list[list[Scored]]] = [[[] for _ in mine] for mine in passages]
        for judge in judges:
            if longest:
                scores = judge.score(parents, tokens, lengths, lambda row, slot: passages[row][slot].text)
            for row, mine in enumerate(passages):
                for slot, passage in enumerate(mine):
                    last, whole = passage.after + len(passage.ids), judge.reads_text
                    nothing = Scored(torch.zeros(0, dtype=torch.float64), (), whole)
                    found[row][slot].append(scores.of(row, slot, up_to=last, whole=whole) if longest else nothing)
            if longest and move:
                judge.advance(torch.zeros(len(passages), 1, dtype=torch.long))
            elif longest:
                judge.rollback()
        return found


def _finalist(lanes: Lanes, key: Key) -> Passage:
    """What a finished lane adds to the released text; nothing where a stop string cut it, as that is read by itself."""
    after = lanes.rows[key[0]].released.tokens
    return Passage(() if key in lanes.cuts else lanes.token_ids(*key)[after:], after, lanes.text(*key))


def _f1_threshold(lanes: Lanes) -> Tensor:
    """The log-odds (B, 1) above which an open lane is judged safe.

    The paper asks for f1 > 0.5. But f1 is the chance of a single continuation, and the search will draw N/K of them
    from a beam: it is enough that one of these is more likely than not to end safe, 1 - (1 - f1)^(N/K) > 0.5.
    """
    draws = [max(1, row.request.search.widest // row.request.search.beams) for row in lanes.rows]
    chances = torch.tensor([1 - 0.5 ** (1 / count) for count in draws], dtype=torch.float64)
    return chances.logit().unsqueeze(1)
