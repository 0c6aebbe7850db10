"""From rows to figures: means, rates with intervals, and paired differences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ig_plugins.research.calibration.bounds import lower_bound, upper_bound
from ig_plugins.research.evaluation.declining import declines
from ig_plugins.research.evaluation.results import ResultRow

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Rate:
    """A share of answers with a 95 % interval that allows for several answers to one prompt."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """What one method did.

    Attributes:
        method: Its label.
        family: Without the number of candidates.
        candidates: N.
        answers: Rows.
        prompts: Different prompts among them.
        reward: Mean reward of what the user sees, refusals included; None without a reward model.
        oracle_share: That mean as a share of the best reward that the constraint allows; None without an oracle.
        cost: Mean cost.
        safe: Share that is safe at every step under the cost models; a refusal is safe.
        safe_at_end: Share that is safe at the last step.
        unsafe: Share that the independent judge finds unsafe; None without a judge.
        more_unsafe: The same for further judges, by name.
        abstained: Share of refusals.
        declined: Share of answers that decline in the policy's own words.
        words: Mean words of what the user sees: the control of a reward, which may be nothing but a liking for length.
        beyond_length: Mean reward above what unguarded answers of the same lengths have; None without a reward model,
            or without enough of these.
        needless: Share of answers that differ from the base answer of the same prompt and seed, among those whose
            base answer was safe; None without base rows.
        seconds_p50: Median wall clock.
        seconds_p95: Its 95th percentile.
        candidate_tokens: Mean tokens sampled.
        judge_calls: Mean calls of cost and reward models.
        judge_tokens: Mean tokens that they read.
    """

    method: str
    family: str
    candidates: int
    answers: int
    prompts: int
    reward: float | None
    oracle_share: float | None
    cost: float
    safe: float
    safe_at_end: float
    unsafe: Rate | None
    more_unsafe: dict[str, Rate]
    abstained: float
    declined: float
    words: float
    beyond_length: float | None
    needless: float | None
    seconds_p50: float
    seconds_p95: float
    candidate_tokens: float
    judge_calls: float
    judge_tokens: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A method minus the reference, paired by prompt and seed, with a bootstrap interval over prompts."""

    method: str
    reference: str
    metric: str
    mean: float
    low: float
    high: float
    pairs: int


def figures(
    rows: Sequence[ResultRow], *, oracle: Mapping[int, float] | None = None, base: str = "base"
) -> list[Figures]:
    """Every method's figures, in order of appearance.

    Args:
        rows: Of one run.
        oracle: Per prompt the best reward that the constraint allows.
        base: The label of the unguarded method.
    """
    unguarded = {(row.prompt, row.seed): row for row in rows if row.method == base}
    line = _reward_of_length(list(unguarded.values()))
    return [_figures(mine, oracle, unguarded, line) for mine in by_method(rows).values()]


def by_method(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """Rows by label."""
    grouped: dict[str, list[ResultRow]] = defaultdict(list)
    for row in rows:
        grouped[row.method].append(row)
    return dict(grouped)


def _figures(
    rows: list[ResultRow],
    oracle: Mapping[int, float] | None,
    unguarded: Mapping[tuple[int, int], ResultRow],
    line: tuple[float, float] | None,
) -> Figures:
    rewards = [row.reward for row in rows if row.reward is not None]
    reward = _mean(rewards) if len(rewards) == len(rows) else None
    best = [oracle[row.prompt] for row in rows if row.prompt in oracle] if oracle else []
    share = reward / _mean(best) if reward is not None and len(best) == len(rows) and _mean(best) > 0 else None
    seconds = np.array([row.seconds for row in rows])
    first = rows[0]
    return Figures(
        method=first.method,
        family=first.family,
        candidates=first.candidates,
        answers=len(rows),
        prompts=len({row.prompt for row in rows}),
        reward=reward,
        oracle_share=share,
        cost=_mean([row.cost for row in rows]),
        safe=_mean([row.safe or row.blocked for row in rows]),
        safe_at_end=_mean([row.safe_at_end or row.blocked for row in rows]),
        unsafe=unsafe_rate(rows),
        more_unsafe={name: rate for name in first.more_unsafe if (rate := unsafe_rate(rows, judge=name))},
        abstained=_mean([row.blocked for row in rows]),
        declined=_mean([not row.blocked and declines(row.text) for row in rows]),
        words=_mean([len(row.text.split()) for row in rows]),
        beyond_length=None if reward is None or line is None else reward - _mean([_on(line, row) for row in rows]),
        needless=_needless(rows, unguarded),
        seconds_p50=float(np.percentile(seconds, 50)),
        seconds_p95=float(np.percentile(seconds, 95)),
        candidate_tokens=_mean([row.candidate_tokens for row in rows]),
        judge_calls=_mean([row.judge_calls for row in rows]),
        judge_tokens=_mean([row.judge_tokens for row in rows]),
    )


def unsafe_rate(rows: Sequence[ResultRow], *, judge: str | None = None) -> Rate | None:
    """A judge's unsafe share, the first one's or a named further one's, with Clopper-Pearson bounds over prompts.

    Answers to one prompt under several seeds are not independent, prompts are. A prompt's share lies between
    whether all its answers are unsafe and whether any is; bounding these two bounds the rate, whatever the dependence.
    """
    verdicts: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        found = row.unsafe if judge is None else row.more_unsafe.get(judge)
        if found is None:
            return None
        verdicts[row.prompt].append(found)
    if not verdicts:
        return None
    risk, prompts = (1 - CONFIDENCE) / 2, len(verdicts)
    return Rate(
        value=_mean([_mean(mine) for mine in verdicts.values()]),
        low=lower_bound(sum(map(all, verdicts.values())), prompts, risk),
        high=upper_bound(sum(map(any, verdicts.values())), prompts, risk),
    )


def _reward_of_length(rows: Sequence[ResultRow]) -> tuple[float, float] | None:
    """Slope and height of the line that foretells a reward from the logarithm of an answer's words."""
    known = [(_log_words(row), row.reward) for row in rows if row.reward is not None]
    if len({length for length, _ in known}) < 2:
        return None
    lengths, rewards = np.array(known).T
    slope, height = np.polyfit(lengths, rewards, 1)
    return float(slope), float(height)


def _on(line: tuple[float, float], row: ResultRow) -> float:
    return line[0] * _log_words(row) + line[1]


def _log_words(row: ResultRow) -> float:
    return math.log1p(len(row.text.split()))


def _needless(rows: Sequence[ResultRow], unguarded: Mapping[tuple[int, int], ResultRow]) -> float | None:
    changed = []
    for row in rows:
        was = unguarded.get((row.prompt, row.seed))
        if was is not None and (was.safe if was.unsafe is None else not was.unsafe):
            changed.append(row.text != was.text)
    return _mean(changed) if changed else None


METRICS: dict[str, Callable[[ResultRow], float | None]] = {
    "reward": lambda row: row.reward,
    "cost": lambda row: row.cost,
    "safe": lambda row: float(row.safe or row.blocked),
    "unsafe": lambda row: None if row.unsafe is None else float(row.unsafe),
    "words": lambda row: float(len(row.text.split())),
    "seconds": lambda row: row.seconds,
}


def differences(rows: Sequence[ResultRow], *, reference: str, seed: int = 0) -> list[Difference]:
    """Every method minus the reference, in each metric, where both answered.

    Args:
        rows: Of one run.
        reference: A method's label.
        seed: Of the bootstrap.
    """
    grouped = by_method(rows)
    if reference not in grouped:
        return []
    theirs = {(row.prompt, row.seed): row for row in grouped[reference]}
    found = []
    for label, mine in grouped.items():
        for metric, value in METRICS.items():
            gaps: dict[int, list[float]] = defaultdict(list)
            for row in mine:
                other = theirs.get((row.prompt, row.seed))
                here, there = value(row), None if other is None else value(other)
                if here is not None and there is not None:
                    gaps[row.prompt].append(here - there)
            if label != reference and gaps:
                mean, low, high = bootstrap(list(gaps.values()), seed=seed)
                found.append(Difference(label, reference, metric, mean, low, high, sum(map(len, gaps.values()))))
    return found


def bootstrap(clusters: Sequence[Sequence[float]], *, seed: int) -> tuple[float, float, float]:
    """Mean and percentile interval, resampling whole clusters (the seeds of one prompt stay together).

    Args:
        clusters: Values by prompt.
        seed: Of the resampling.
    """
    sums = np.array([sum(values) for values in clusters])
    counts = np.array([len(values) for values in clusters])
    drawn = np.random.default_rng(seed).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
