"""Many callers at once on one guard, against the same calls one after another: throughput, and equal answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from ig_plugins.guard import InferenceGuard

Answers = Callable[[Sequence[str]], Sequence[str]]
"""A way to get the answers to some prompts."""


def ways_to_ask(guard: InferenceGuard, **overrides: Any) -> dict[str, Answers]:
    """One after another, a thread a caller, and a task a caller.

    Args:
        guard: With a seed, so that answers can be compared.
        **overrides: Options of every call.
    """

    def one(prompt: str) -> str:
        text: str = guard.generate(prompt, **overrides).text
        return text

    async def later(prompt: str) -> str:
        return (await guard.agenerate(prompt, **overrides)).text  # type: ignore[no-any-return]

    return {
        "one after another": lambda prompts: [one(prompt) for prompt in prompts],
        "threads": lambda prompts: threads(one, prompts),
        "tasks": lambda prompts: tasks(later, prompts),
    }


def threads(ask: Callable[[str], str], prompts: Sequence[str]) -> list[str]:
    """A thread a prompt."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(ask, prompts))


def tasks(ask: Callable[[str], Awaitable[str]], prompts: Sequence[str]) -> list[str]:
    """A task a prompt, in an event loop of their own."""

    async def gather() -> list[str]:
        return list(await asyncio.gather(*map(ask, prompts)))

    return asyncio.run(gather())


def measure_callers(ways: Mapping[str, Answers], prompts: Sequence[str], *, repeats: int = 3) -> dict[str, Any]:
    """Times every way to ask, in turn.

    Args:
        ways: The first is what the others are compared with.
        prompts: One a caller.
        repeats: Rounds.

    Returns:
        By way: median wall and processor seconds, how many times the throughput of the first way that is by either
        clock, and how many answers were not the first way's.
    """
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for answers in ways.values():
        answers(prompts[:2])  # nobody pays for the first call
    for _ in range(repeats):
        for name, answers in ways.items():
            before = time.perf_counter(), time.process_time()
            texts[name] = list(answers(prompts))
            wall[name].append(time.perf_counter() - before[0])
            cpu[name].append(time.process_time() - before[1])
    first = next(iter(ways))
    return {
        name: {
            "wall s": median(wall[name]),
            "cpu s": median(cpu[name]),
            "throughput, wall": median(wall[first]) / median(wall[name]),
            "throughput, cpu": median(cpu[first]) / median(cpu[name]),
            "other answers": sum(a != b for a, b in zip(texts[name], texts[first], strict=True)),
        }
        for name in ways
    }
