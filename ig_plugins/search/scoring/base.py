"""How candidates are judged: by the cost and reward models themselves, or predicted by a critic.

The score of a candidate, higher is better (paper, section 4):

| candidate         | with critic                  | without critic                   |
|-------------------|------------------------------|----------------------------------|
| finished, safe    | γ^T r(x, y)                  | γ^T r(x, y)                      |
| open, judged safe | the critic's value           | r of the partial text, z is safe |
| anything else     | never kept                   | never kept                       |

The critic judges an open candidate safe where one of its continuations is likelier than not to end safe
(`critic._f1_threshold`; the paper asks f1 > 0.5 of a single one). On a block's last try, where it judges none safe, all
open ones go on, the least doubtful first: the verifier has the last word.

In both a finished candidate is safe only if the cost models say so for exactly what would leave: the verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from critic_models.errors import JudgeError
from critic_models.safety import SafetyBudget
from ig_plugins.search.lanes import Key, Lanes, Row, pad
from ig_plugins.search.request import Request
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.text import LaneText
from ig_plugins.search.trajectory import Border, Step
from ig_plugins.search.verifier import Scored, Trail


def unmeasured(key: Key) -> Trail | None:
    """No cost model was asked about lanes that have no trail."""
    return None


class Judgement(NamedTuple):
    """What scoring says of every lane of the open block.

    Attributes:
        safe: Shape (B, L): finished lanes that the verifier passed, open lanes that may go on.
        score: Shape (B, L), only meaningful where safe.
        confident: Shape (B, L), safe lanes of which the critic is sure; an adaptive search stays narrow with these.
        rewards: The reward of finished safe lanes, by (row, lane).
        trails: The cost models' scores from the start of the answer to the lane's end, by (row, lane). With a critic
            only finished lanes have them.
        measured: The same for a lane without a trail, if they were asked about it: whoever wants to know it has to ask
            before the block is done.
        foreseen: Shapes (B, L): the critic's log-odds of a safe end and the discounted reward that it expects.
    """

    safe: Tensor
    score: Tensor
    confident: Tensor
    rewards: dict[Key, float]
    trails: dict[Key, Trail]
    measured: Callable[[Key], Trail | None] = unmeasured
    foreseen: tuple[Tensor, Tensor] | None = None


class Scoring(Protocol):
    """Judges the open block.

    Attributes:
        sessions: All judges, for their usage counts.
        has_critic: Whether there is a critic, without which no search can be adaptive.
        ranks: Whether there is a reward by which candidates can be ranked.
        optimism: By how much an open candidate may end better than its score says; infinite where nobody knows.
    """

    sessions: Sequence[JudgeSession]
    has_critic: bool
    ranks: bool
    optimism: float

    def add_rows(self, requests: Sequence[Request], beams: Sequence[int]) -> list[Trail]:
        """New rows; returns what their prefills cost. ``beams`` counts the beams of the rows already there."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""

    def judge(self, lanes: Lanes) -> Judgement:
        """Judges every sampled lane."""

    def advance(self, lanes: Lanes, kept: Tensor) -> None:
        """Shape (B, K): the lanes that are the beams from now on."""

    def release(self, rows: Sequence[Row], borders: Sequence[Border | None]) -> list[Border | None]:
        """Judges the text up to new borders, exactly as it would leave.

        Args:
            rows: All rows.
            borders: Up to where the text of each is to leave; None where nothing is to.

        Returns:
            The borders with the cost models' scores of them, by which they may turn out not to be passed.
        """


def discounted(reward: float, length: int, budgets: Sequence[SafetyBudget]) -> float:
    """γ^T r with the discount of the cumulative budgets (the strongest, if they differ)."""
    gammas = [budget.discount for budget in budgets if budget.accounting == "cumulative"]
    return reward * min(gammas, default=1.0) ** length


def trail_of(step: Step) -> Trail:
    """The last trail on the way to a step."""
    while step.trail is None and step.parent is not None:
        step = step.parent
    if step.trail is None:
        raise JudgeError("no safety state was ever measured on this path; the prompt's step must carry one")
    return step.trail


def verified_cut(costs: Sequence[JudgeSession], lanes: Lanes, key: Key, before: Trail) -> Trail:
    """What the cost models say of an answer that a stop string cut, read from its start exactly as it would leave.

    Judges of texts have scored starts of it before, which still count: its prefill, and what a stream has shown.

    Args:
        costs: The cost models' sessions.
        lanes: The open block.
        key: (row, lane)
        before: Their scores of the beam that the lane continues.
    """
    cut = lanes.cuts[key]
    found = [session.score_whole([cut.whole])[0] for session in costs]
    return before.cut(found, kept=cut.kept, end=lanes.depth(*key))


def reward_of_cut(reward: JudgeSession, lanes: Lanes, key: Key) -> float:
    """The reward of an answer that a stop string cut."""
    whole = lanes.cuts[key].whole
    scores = reward.score_whole([whole])[0].scores
    if len(scores):
        return float(scores[-1])
    return reward.judge.score([whole.request.judge_prompt], [whole.text], finished=[False])[0]  # no token is left


def read_prefills(
    requests: Sequence[Request], costs: Sequence[JudgeSession], sessions: Sequence[JudgeSession], beams: Sequence[int]
) -> list[Trail]:
    """Lets every judge read the prefilled assistant text of new requests, which spends budget.

    Args:
        requests: The new rows, already added.
        costs: The cost models' sessions.
        sessions: All that must keep up.
        beams: Open beams of the rows that were there before; those stay as they are.
    """
    starts = [Trail.start(request.budgets) for request in requests]
    longest = max(len(request.prefill_ids) for request in requests)
    if longest == 0:
        return starts
    counts = [*beams, *([1] * len(requests))]
    parents = pad([list(range(count)) for count in counts])
    tokens = torch.zeros(*parents.shape, longest, dtype=torch.long)
    lengths = torch.zeros_like(parents)
    for row, request in enumerate(requests, start=len(beams)):
        lengths[row, 0] = len(request.prefill_ids)
        tokens[row, 0, : len(request.prefill_ids)] = torch.tensor(list(request.prefill_ids), dtype=torch.long)

    def text_of(row: int, lane: int) -> LaneText:
        return LaneText(requests[row - len(beams)].prefill_text, finished=False)

    found: list[list[Scored]] = [[] for _ in requests]
    for session in sessions:
        scores = session.score(parents, tokens, lengths, text_of)
        if any(session is cost for cost in costs):
            for index, row in enumerate(range(len(beams), len(counts))):
                found[index].append(scores.of(row, 0, up_to=0, whole=session.reads_text))
        session.advance(parents.where(parents < 0, torch.arange(parents.shape[1])))
    return [
        start.extended(mine) if request.prefill_ids else start
        for request, start, mine in zip(requests, starts, found, strict=True)
    ]
