"""What a guarded answer takes beside one unguarded answer of the same weights, and what adaptive search gives up.

Every prompt is answered by each contender in turn, alone, in one process; processor seconds are added up. Ratios
travel, seconds do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch

from ig_plugins.engine import NgramDrafts
from ig_plugins.guard import GuardResult, InferenceGuard
from ig_plugins.research.evaluation.metrics import bootstrap
from ig_plugins.runtime.one_lane import sample_answer

Verdict = Callable[[str, str], bool]


@dataclass
class Tally:
    """The answers of one contender: processor seconds, tokens, texts, and the results of guarded ones."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    results: list[GuardResult] = field(default_factory=list)


def measure_adaptive(
    guard: InferenceGuard,
    prompts: Sequence[str],
    *,
    settings: Mapping[str, Mapping[str, Any]],
    unsafe: Verdict | None = None,
    repeats: int = 2,
) -> dict[str, Any]:
    """Compares guarded searches with unguarded answers.

    Args:
        guard: Policy and judges; its sampling settings count for all.
        prompts: Answered one at a time.
        settings: Overrides by contender; the one named ``full`` is what the others' rewards are compared with. It also
            runs with other draws, which shows its own noise.
        unsafe: A verdict that no model sees, on (prompt, response).
        repeats: Rounds for the times; the answers are those of the first.

    Returns:
        By contender: seconds and tokens an answer, its time over that of ``generate`` (and a token's over a token's),
        reward, cost and verdicts of guarded ones; ``reward against full`` is (mean, low, high), 95 %, paired.
    """
    contenders: dict[str, Callable[[str, int], tuple[str, int, GuardResult | None]]] = {
        "generate": lambda prompt, seed: _generate(guard, prompt, seed),
        "one lane": lambda prompt, seed: _one_lane(guard, prompt, seed),
    }
    for name, overrides in settings.items():
        contenders[name] = lambda prompt, seed, mine=overrides: _guarded(guard, prompt, seed, mine)  # type: ignore[misc]
    if "full" in settings:
        other = len(prompts)
        contenders["full, other draws"] = lambda prompt, seed: _guarded(guard, prompt, seed + other, settings["full"])
    tallies = {name: Tally() for name in contenders}
    for answer in contenders.values():
        answer(prompts[0], 0)  # nobody pays for the first call
    policy = guard.components.policy.engine
    for repeat in range(repeats):
        # Nobody guesses from what another contender, or an earlier round, said to the same prompts.
        drafts = {name: NgramDrafts() for name in contenders}
        for seed, prompt in enumerate(prompts):
            for name, answer in contenders.items():
                policy.drafts = drafts[name]
                begun = time.process_time()
                text, tokens, result = answer(prompt, seed)
                tally = tallies[name]
                tally.seconds.append(time.process_time() - begun)
                if repeat == 0:
                    tally.tokens.append(tokens)
                    tally.texts.append(text)
                    tally.results += [result] if result else []
    return {name: _summary(guard, prompts, tallies, name, unsafe) for name in tallies}


def _summary(
    guard: InferenceGuard, prompts: Sequence[str], tallies: Mapping[str, Tally], name: str, unsafe: Verdict | None
) -> dict[str, Any]:
    mine, plain, full = tallies[name], tallies["generate"], tallies.get("full")
    found: dict[str, Any] = {
        "ms": 1000 * mean(mine.seconds),
        "tokens": mean(mine.tokens),
        "time / generate": sum(mine.seconds) / sum(plain.seconds),
        "a token / generate": sum(mine.seconds) / sum(plain.seconds) * sum(plain.tokens) / sum(mine.tokens),
    }
    if unsafe:
        found["unsafe by the verdict"] = mean(map(unsafe, prompts, mine.texts))
    if not mine.results:
        if guard.components.reward:
            found["reward"] = mean(guard.components.reward.score(prompts, mine.texts, finished=[True] * len(prompts)))
        return found
    given = [result for result in mine.results if not result.blocked]
    found |= {
        "blocked": len(mine.results) - len(given),
        "over budget": sum(not _within(result) for result in given),
        "cost": mean(result.cost or 0.0 for result in given),
        "candidate tokens": mean(result.usage.candidate_tokens for result in mine.results),
        "judge tokens": mean(result.usage.judge_tokens for result in mine.results),
    }
    if guard.components.reward:
        found["reward"] = mean(result.reward or 0.0 for result in given)
    if guard.components.reward and full and mine is not full:
        pairs = zip(mine.results, full.results, strict=True)
        found["reward against full"] = bootstrap(
            [[(a.reward or 0.0) - (b.reward or 0.0)] for a, b in pairs if not (a.blocked or b.blocked)], seed=0
        )
    return found


def _within(result: GuardResult) -> bool:
    """Whether the verifier's state is safe: z > 0, or z >= 0 where the worst score counts."""
    state = result.safety_state
    worst = all(accounting == "worst" for accounting in result.accounting.values())
    return state is not None and (state >= 0 if worst else state > 0)


def _guarded(
    guard: InferenceGuard, prompt: str, seed: int, overrides: Mapping[str, Any]
) -> tuple[str, int, GuardResult]:
    result = guard.generate(prompt, **{"seed": seed, **overrides})
    return result.text, len(result.token_ids), result


def _generate(guard: InferenceGuard, prompt: str, seed: int) -> tuple[str, int, None]:
    """One sample by transformers' own loop."""
    request, search = guard.request(prompt), guard.search
    model = guard.components.policy.engine.body.model
    torch.manual_seed(seed)
    ids = torch.tensor([list(request.prompt_ids)], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=search.temperature,
        top_k=search.top_k,
        top_p=search.top_p,
        min_p=search.min_p or None,
        max_new_tokens=search.max_new_tokens,
        eos_token_id=sorted(guard.components.policy.stop_ids),
        pad_token_id=min(guard.components.policy.stop_ids),
    )
    new = output[0, ids.shape[1] :].tolist()
    return guard.components.policy.detokenizer.text(new), len(new), None


def _one_lane(guard: InferenceGuard, prompt: str, seed: int) -> tuple[str, int, None]:
    """One sample by the guard's engine, which nobody judges."""
    # All in one block: the fastest that this engine answers.
    ids, text = sample_answer(
        guard.components.policy, guard.request(prompt, seed=seed), block=guard.search.max_new_tokens
    )
    return text, len(ids), None
