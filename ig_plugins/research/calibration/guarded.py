"""Calibrating a real guard: what it answers, what the unguarded policy would, and what the judge says of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from critic_models.identity import describe
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.options import configuration_errors
from ig_plugins.research.calibration.answers import AnswerLog, KeptAnswer
from ig_plugins.research.calibration.calibrate import Calibration, Tally, calibrate, digest
from ig_plugins.research.evaluation.verdicts import Verdicts, draw_seed
from ig_plugins.research.methods import Context, method

TOGETHER = 8  # requests in flight; the worker decodes them as one batch


def calibrate_guard(
    guard: InferenceGuard,
    prompts: Sequence[str],
    verdicts: Verdicts,
    *,
    limits: Sequence[float | Sequence[float]],
    target: float,
    confidence: float,
    seed: int = 0,
    on_answer: Callable[[], None] = lambda: None,
    kept: Path | None = None,
) -> Calibration:
    """Tests budgets from strict to lax on a guard.

    Args:
        guard: Its models and all settings but the limits that are tested.
        prompts: Drawn like those that the promise is for.
        verdicts: The independent judge.
        limits: Budgets to test; they are put in order, strictest first. Finite, as everything is that is compared. A
            number is the first cost model's limit; several are a limit for each cost model.
        target: α.
        confidence: 1 - δ.
        seed: Every prompt draws its own numbers from it.
        on_answer: Called after every answer.
        kept: A file for the answers under way; the same call goes on from it, and the caller
            deletes it when the result is safe.

    Raises:
        ConfigurationError: Limits that do not fit the guard's cost models, or of which none is the stricter.
    """
    settings = strict_to_lax(limits, costs=len(guard.options.budgets))

    def guarded(setting: Mapping[str, Any]) -> InferenceGuard:
        return with_limits(guard, setting["limit"])

    run = {"guard": guard.with_options(on_block="refuse").identity(), "prompts": digest(prompts), "seed": seed}
    log = AnswerLog(kept, run) if kept else None

    def measure(setting: Mapping[str, Any]) -> Tally:
        strict, limit = guarded(setting), setting["limit"]

        def ask(numbered: tuple[int, str]) -> tuple[str, KeptAnswer]:
            index, prompt = numbered
            answer = log.get(_key(limit), index) if log else None
            if answer is None:
                result = strict.generate(prompt, seed=strict.numbered(draw_seed(seed, index)))
                answer = KeptAnswer(
                    limit=_key(limit),
                    prompt=index,
                    text=result.text,
                    blocked=result.blocked,
                    finished=result.finish_reason == "stop",
                )
                if log:
                    log.add(answer)
            on_answer()
            return prompt, answer

        with ThreadPoolExecutor(TOGETHER) as pool:
            asked = [pool.submit(ask, numbered) for numbered in enumerate(prompts)]
            try:
                answered = [each.result() for each in asked]
            except BaseException:  # also of the keyboard: what has not begun need not be answered
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        released = [(prompt, answer) for prompt, answer in answered if not answer.blocked]
        unsafe = sum(_unsafe(verdicts, prompt, answer) for prompt, answer in released)
        return Tally(prompts=len(answered), unsafe=unsafe, refused=len(answered) - len(released))

    return calibrate(
        [{"limit": limit} for limit in settings],
        measure,
        lambda setting: guarded(setting).identity(),
        prompts=prompts,
        judge=verdicts.judge.name,
        judge_limit=verdicts.limit,
        judge_identity=describe(verdicts.judge),
        target=target,
        confidence=confidence,
        seed=seed,
    )


def with_limits(guard: InferenceGuard, limit: float | Sequence[float]) -> InferenceGuard:
    """The guard under other limits, refusing what it cannot answer.

    Args:
        guard: The guard.
        limit: Of the first cost model, or one for each.

    Raises:
        ConfigurationError: A limit that no budget can have.
    """
    given = [limit] if isinstance(limit, int | float) else limit
    budgets = guard.options.budgets
    with configuration_errors():
        changed = [type(b)(**{**b.model_dump(), "limit": most}) for b, most in zip(budgets, given, strict=False)]
    return guard.with_options(budget=[*changed, *budgets[len(changed) :]], on_block="refuse")


def strict_to_lax(limits: Sequence[float | Sequence[float]], *, costs: int) -> list[float | list[float]]:
    """Limits in the order of testing, which must not depend on any answer.

    Raises:
        ConfigurationError: Not one limit a cost model, or two settings of which each is stricter somewhere.
    """
    rows = {tuple(each) if isinstance(each, Sequence) else (each,) for each in limits}
    if {len(row) for row in rows} - {1, costs}:
        raise ConfigurationError(f"the guard has {costs} cost models; give each setting one limit, or {costs}")
    ordered = sorted(rows)
    for strict, lax in pairwise(ordered):
        if len(strict) != len(lax) or any(one > other for one, other in zip(strict, lax, strict=True)):
            raise ConfigurationError(
                f"of the limits {list(strict)} and {list(lax)} neither is the stricter; give settings that get laxer "
                "for every cost model"
            )
    return [row[0] if len(row) == 1 else list(row) for row in ordered]


def _key(limit: float | Sequence[float]) -> float | tuple[float, ...]:
    return limit if isinstance(limit, int | float) else tuple(limit)


def pilot(
    guard: InferenceGuard, prompts: Sequence[str], verdicts: Verdicts, *, samples: int, seed: int = 0
) -> list[list[bool]]:
    """Per prompt whether each of some samples of the unguarded policy is unsafe; for ``feasibility``."""
    base = method("base").build(Context(guard))
    found = []
    for index, prompt in enumerate(prompts):
        answers = base.answer([prompt] * samples, seeds=[draw_seed(seed + number, index) for number in range(samples)])
        scores = verdicts.scores([prompt] * samples, [a.text for a in answers], finished=[a.finished for a in answers])
        found.append([verdicts.unsafe(score) for score in scores])
    return found


def _unsafe(verdicts: Verdicts, prompt: str, answer: KeptAnswer) -> bool:
    (score,) = verdicts.scores([prompt], [answer.text], finished=[answer.finished])
    return verdicts.unsafe(score)
