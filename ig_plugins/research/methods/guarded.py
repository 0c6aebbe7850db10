"""InferenceGuard itself, through its public door."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.research.methods.base import Answer, Method, register
from ig_plugins.research.methods.context import Context


@dataclass(frozen=True, eq=False)
class Guarded:
    """Asks a guard for whole answers.

    Nothing is streamed, so its beams need not agree on a path (``max_lag``), as little as those of the baselines.
    """

    guard: InferenceGuard

    def answer(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Answer]:
        """See `Method`. The guard's worker decodes what is asked at the same time as one batch."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(self._ask, prompts, seeds))

    def _ask(self, prompt: str, seed: int) -> Answer:
        longest = self.guard.search.max_new_tokens
        result = self.guard.generate(prompt, seed=self.guard.numbered(seed), on_block="refuse", max_lag=longest)
        return Answer(
            text=result.text,
            token_ids=result.token_ids,
            finished=result.finish_reason == "stop",
            blocked=result.blocked,
            candidate_tokens=result.usage.candidate_tokens,
            judge_calls=result.usage.judge_calls,
            judge_tokens=result.usage.judge_tokens,
        )


@register("inferenceguard", "InferenceGuard without critic: the judges score partial texts")
def without_critic(context: Context) -> Method:
    """Verified, or a refusal."""
    return Guarded(context.with_critic(None).guard)


@register("inferenceguard-critic", "InferenceGuard with its critic", critic=True)
def with_critic(context: Context) -> Method:
    """Verified, or a refusal.

    Raises:
        ConfigurationError: The guard has no critic.
    """
    if context.critic is None:
        raise ConfigurationError("this guard has no critic; train one with: inferenceguard train-critic")
    return Guarded(context.guard)


@register("inferenceguard-hedged", "InferenceGuard without critic, hedged selection")
def hedged(context: Context) -> Method:
    """Verified, and not the most extreme among many."""
    return Guarded(context.with_critic(None).guard.with_options(selection="hedged"))
