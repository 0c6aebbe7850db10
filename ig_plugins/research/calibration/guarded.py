"""Calibrating a real guard: what it answers, what the unguarded policy would, and what the judge says of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from critic_models.identity import describe
from ig_plugins.guard import GuardResult, InferenceGuard
from ig_plugins.research.calibration.calibrate import Calibration, Tally, calibrate
from ig_plugins.research.evaluation.verdicts import Verdicts, draw_seed
from ig_plugins.research.methods import Context, method

TOGETHER = 8  # requests in flight; the worker decodes them as one batch


def calibrate_guard(
    guard: InferenceGuard,
    prompts: Sequence[str],
    verdicts: Verdicts,
    *,
    limits: Sequence[float],
    target: float,
    confidence: float,
    seed: int = 0,
    on_answer: Callable[[], None] = lambda: None,
) -> Calibration:
    """Tests budgets from strict to lax on a guard.

    Args:
        guard: Its models and all settings but the first cost model's limit.
        prompts: Drawn like those that the promise is for.
        verdicts: The independent judge.
        limits: Budgets to test; they are put in order, strictest first. Finite, as everything is that is compared.
        target: α.
        confidence: 1 - δ.
        seed: Every prompt draws its own numbers from it.
        on_answer: Called after every answer.
    """
    budgets = guard.options.budgets

    def guarded(setting: Mapping[str, Any]) -> InferenceGuard:
        first = type(budgets[0])(**{**budgets[0].model_dump(), "limit": setting["limit"]})
        return guard.with_options(budget=[first, *budgets[1:]], on_block="refuse")

    def measure(setting: Mapping[str, Any]) -> Tally:
        strict = guarded(setting)

        def ask(numbered: tuple[int, str]) -> tuple[str, GuardResult]:
            result = strict.generate(numbered[1], seed=draw_seed(seed, numbered[0]))
            on_answer()
            return numbered[1], result

        with ThreadPoolExecutor(TOGETHER) as pool:
            answered = list(pool.map(ask, enumerate(prompts)))
        released = [(prompt, result) for prompt, result in answered if not result.blocked]
        unsafe = sum(_unsafe(verdicts, prompt, result) for prompt, result in released)
        return Tally(prompts=len(answered), unsafe=unsafe, refused=len(answered) - len(released))

    return calibrate(
        [{"limit": limit} for limit in sorted(set(limits))],
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


def _unsafe(verdicts: Verdicts, prompt: str, result: GuardResult) -> bool:
    (score,) = verdicts.scores([prompt], [result.text], finished=[result.finish_reason == "stop"])
    return verdicts.unsafe(score)
