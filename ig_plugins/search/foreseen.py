"""Scoring with the critic: it foresees where open candidates end; the judges read only what may leave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ig_plugins.search.direct import lane_states, read_prefills
from ig_plugins.search.follow import Follower, LaneText, check_finite
from ig_plugins.search.lanes import Key, Lanes, Row, distinct
from ig_plugins.search.path import Measure, Step
from ig_plugins.search.request import Request
from ig_plugins.search.scoring import Judgement, Trail, discounted, last_measured
from ig_plugins.search.text import Detokenizer
from ig_plugins.search.verify import cut_passes

if TYPE_CHECKING:
    from critic_models.latent import LatentCritic


SURE = math.log(0.95 / 0.05)  # log-odds of a safe end above which few lanes are enough


@dataclass(frozen=True)
class Passage:
    """A text that follows a row's released step and is to be judged."""

    ids: Sequence[int]
    text: LaneText


class CriticScoring:
    """The critic ranks; finished candidates are verified in its order until one of them passes.

    The judges stand at each row's released step and read nothing beyond it but finalists and text to be released.
    A wrong critic so costs reward or an abstention, never safety.

    Args:
        critic: Foresees safety and reward from the policy's hidden state.
        costs: One follower a cost model.
        reward: The reward model's follower, or None.
        detokenizer: Gives the text of what is to be released.
        optimism: How far an answer may exceed the critic's expectation; the search goes on for that much.
    """

    foresees = True

    def __init__(
        self,
        critic: LatentCritic,
        costs: Sequence[Follower],
        reward: Follower | None,
        *,
        detokenizer: Detokenizer,
        optimism: float,
    ) -> None:
        self._critic, self._detokenizer = critic, detokenizer
        self._costs, self._reward = list(costs), [reward] if reward else []
        self.followers: Sequence[Follower] = [*self._costs, *self._reward]
        self.optimism = optimism if reward else 0.0
        self._rewarded: list[int] = []  # tokens of each row's released text that the reward model has read

    def admit(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Measure]:
        """See `Scoring`."""
        for follower in self.followers:
            follower.admit(requests)
        self._rewarded += [0] * len(requests)
        return read_prefills(requests, self._costs, self.followers, [1] * len(beams))

    def retain(self, rows: Sequence[int]) -> None:
        """See `Scoring`."""
        for follower in self.followers:
            follower.retain(rows)
        self._rewarded = [self._rewarded[row] for row in rows]

    def commit(self, lanes: Lanes, kept: Tensor) -> None:
        """See `Scoring`. The judges do not follow open beams."""

    def judge(self, lanes: Lanes) -> Judgement:
        """See `Scoring`."""
        logit, value = self._foresee(lanes)
        safe, score = lanes.open & (logit > _enough(lanes)), value.clone()
        for index, row in enumerate(lanes.rows):
            if row.last_try and not safe[index].any():  # go on with the least doubtful: the verifier has the last word
                safe[index], score[index] = lanes.open[index], logit[index]
        judgement = Judgement(safe, score, self._calm(lanes, logit, value), {}, {})
        queues = [self._finalists(lanes, index, logit, value) for index in range(len(lanes.rows))]
        while any(finalists := [next(queue, []) for queue in queues]):
            for done in self._verify(lanes, finalists, judgement):
                queues[done] = iter(())
        return judgement

    def release(self, rows: Sequence[Row], steps: Sequence[Step]) -> list[bool]:
        """See `Scoring`. The cost models read from the released step to the new one, and stand there from now on."""
        passages = []
        for row, step in zip(rows, steps, strict=True):
            ids = step.token_ids()
            text = self._detokenizer.text([*row.request.prefill_ids, *ids])
            passages.append([Passage(ids[len(row.released) :], LaneText(text, finished=False))])
        values = self._read(self._costs, passages, move=True)
        verdicts = []
        for row, step, ((mine,), (passage,)) in zip(rows, steps, zip(values, passages, strict=True), strict=True):
            if not passage.ids:
                verdicts.append(True)
                continue
            trail = Trail.follow(mine, last_measured(row.released), row.request.budgets)
            path = step.path()[len(row.released.path()) :]
            for passed, measure in zip(path, trail.measures(_bounds(path)), strict=True):
                passed.measure = measure
            verdicts.append(trail.safe())
        return verdicts

    def _foresee(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """The critic's log-odds of a safe end and its expected discounted reward, both (B, L)."""
        state = lane_states(lanes).to(lanes.hidden.device)
        logit, value = self._critic(lanes.hidden.float(), state.float(), lanes.said)
        return logit.float().cpu(), value.float().cpu()

    def _calm(self, lanes: Lanes, logit: Tensor, value: Tensor) -> Tensor:
        """Open lanes (B, L) that need no wider search: sure to end safe, worth the usual, half of every sum unspent.

        A refusal is the surest way to end safe. So a lane that will be worth less than the policy's texts are on
        average calls for a wider search; one that is worth a little less than was expected does not, as the critic's
        value varies more than a wider search would gain (docs/performance.md, adaptive search).
        """
        calm = lanes.open & (logit > SURE)
        if self._reward:
            calm &= value > self._critic.usual_value - self._critic.value_error
        for index, row in enumerate(lanes.rows):
            for place, beam in enumerate(row.beams if calm[index].any() else []):
                pairs = zip(last_measured(beam).state, row.request.budgets, strict=True)
                if any(budget.accounting == "cumulative" and state < budget.limit / 2 for state, budget in pairs):
                    calm[index, lanes.parents[index] == place] = False
        return calm

    @staticmethod
    def _finalists(lanes: Lanes, row: int, logit: Tensor, value: Tensor) -> Iterator[list[int]]:
        """Finished lanes in rounds of K, the most valuable of those that look safe first."""
        ended = lanes.ended[row].nonzero().flatten().tolist()
        order = sorted(ended, key=lambda lane: (bool(logit[row, lane] > 0), float(value[row, lane])), reverse=True)
        order = distinct(lanes, row, order)
        size = lanes.rows[row].request.search.beams
        return (order[at : at + size] for at in range(0, len(order), size))

    def _verify(self, lanes: Lanes, finalists: list[list[int]], judgement: Judgement) -> set[int]:
        """Lets the cost models, then the reward model, read finalists; enters those that pass.

        Returns:
            The rows that have a verified answer now.
        """
        passages = [
            [Passage(lanes.since(row, lane, lanes.rows[row].released), lanes.text(row, lane)) for lane in mine]
            for row, mine in enumerate(finalists)
        ]
        values = self._read(self._costs, passages)
        passed: list[tuple[Key, Passage]] = []
        for row, mine in enumerate(finalists):
            request, released = lanes.rows[row].request, lanes.rows[row].released
            for lane, passage, scores in zip(mine, passages[row], values[row], strict=True):
                trail = Trail.follow(scores, last_measured(released), request.budgets)
                cut = lanes.cuts.get((row, lane))
                if trail.safe() and (cut is None or cut_passes(self._costs, lanes, row, cut)):
                    passed.append(((row, lane), passage))
                    path = lanes.beam(row, lane).path()[len(released.path()) :]
                    judgement.measures[row, lane] = trail.measures([*_bounds(path), len(passage.ids)])
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
                judgement.safe[key], judgement.calm[key], judgement.score[key] = True, True, 0.0
                if self._reward:
                    reward = float(read[row][slot][0][-1])
                    judgement.rewards[key] = reward
                    judgement.score[key] = discounted(reward, lanes.depth(*key), lanes.rows[row].request.budgets)

    def _catch_up(self, lanes: Lanes, wanted: Sequence[bool]) -> None:
        """Moves the reward model to the released steps of some rows, which it is asked about only now.

        A text may leave without its reward; so it reads all that has been released at once.
        """
        passages = []
        for index, row in enumerate(lanes.rows):
            ids = row.released.token_ids() if wanted[index] else []
            text = self._detokenizer.text([*row.request.prefill_ids, *ids])
            passages.append([Passage(ids[self._rewarded[index] :], LaneText(text, finished=False))])
            self._rewarded[index] = max(self._rewarded[index], len(ids))
        if not all(follower.rereads for follower in self._reward):
            self._read(self._reward, passages, move=True)

    def _read(
        self, judges: Sequence[Follower], passages: list[list[Passage]], *, move: bool = False
    ) -> list[list[list[Tensor]]]:
        """Lets judges read passages after the released steps.

        Args:
            judges: Who reads.
            passages: Per row what to read.
            move: The rows' first passages become the new released text of these judges.

        Returns:
            Scores by [row][passage][judge], each of shape (T,).
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
        found: list[list[list[Tensor]]] = [[[] for _ in mine] for mine in passages]
        for judge in judges if longest else []:
            scores = judge.measure(parents, tokens, lengths, lambda row, slot: passages[row][slot].text)
            check_finite(scores, judge.judge.name)
            for row, mine in enumerate(passages):
                for slot in range(len(mine)):
                    found[row][slot].append(scores.values[row, slot, : int(scores.lengths[row, slot])])
            if move:
                judge.commit(torch.zeros(len(passages), 1, dtype=torch.long))
            else:
                judge.rollback()
        return found


def _enough(lanes: Lanes) -> Tensor:
    """The log-odds (B, 1) above which an open lane is judged safe.

    The paper asks for f1 > 0.5. But f1 is the chance of a single continuation, and the search will draw N/K of them
    from a beam: it is enough that one of these is more likely than not to end safe, 1 - (1 - f1)^(N/K) > 0.5.
    """
    draws = [max(1, row.request.search.widest // row.request.search.beams) for row in lanes.rows]
    chances = torch.tensor([1 - 0.5 ** (1 / count) for count in draws])
    return chances.logit().unsqueeze(1)


def _bounds(path: Sequence[Step]) -> list[int]:
    """Where each step of a path ends, in tokens from the path's start."""
    ends, total = [], 0
    for step in path:
        total += len(step.tokens)
        ends.append(total)
    return ends
