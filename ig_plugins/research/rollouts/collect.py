"""From prompts to the data a critic is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from critic_models.training.critic import RolloutData
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.research.rollouts.sample import sample_rollouts
from ig_plugins.research.rollouts.store import RolloutStore


@dataclass(frozen=True)
class RolloutConfig:
    """How rollouts are collected.

    Attributes:
        responses: Per prompt; the paper uses 5.
        batch: Prompts decoded together.
        seed: With the prompt's number it decides every draw, so that an interrupted collection ends as a whole one.
    """

    responses: int = 8
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("responses", self.responses, 1), ("batch", self.batch, 1), ("seed", self.seed, 0)):
            if type(value) is not int or value < least:
                raise ConfigurationError(f"{name} is {value}; give a whole number from {least}")


@dataclass(frozen=True)
class Part:
    """One of the parts into which machines divide a collection among themselves: every ``of``-th batch.

    Attributes:
        number: From 1.
        of: How many parts there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigurationError(f"part {self.number}/{self.of} is none; give K/N with K from 1 to N, such as 2/8")

    @classmethod
    def parse(cls, text: str) -> Part:
        """From ``K/N``."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal()):
            raise ConfigurationError(f"part {text!r} is none; give K/N with K from 1 to N, such as 2/8")
        return cls(int(number), int(of))


WHOLE = Part()


def collect(
    guard: InferenceGuard,
    prompts: Sequence[str],
    folder: Path,
    *,
    config: RolloutConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RolloutData:
    """Samples the policy's own responses to all prompts and scores them; finished batches are not repeated.

    Args:
        guard: Gives the policy, the judges, budgets and the sampling settings.
        prompts: User turns.
        folder: Where batches are kept; one begun with other models, prompts or settings is refused.
        config: How many, in which batches, from which seed.
        progress: Told of (prompts done, prompts in all).

    Raises:
        MismatchError: The folder belongs to another collection.
        PromptError, JudgeError: A prompt cannot be answered, or a judge failed.
    """
    store = collect_part(guard, prompts, folder, config=config, part=WHOLE, progress=progress)
    return assemble(store, -(-len(prompts) // config.batch), config.batch)


def collect_part(
    guard: InferenceGuard,
    prompts: Sequence[str],
    folder: Path,
    *,
    config: RolloutConfig,
    part: Part,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RolloutStore:
    """As `collect`, of one part only; the parts may be collected at the same time, on machines that share the folder.

    A batch has its own seeds and its own file, so the data are the same whoever collected which part, and a part that
    was lost is collected again by whoever asks for it.
    """
    _ = guard.components.policy.engine  # a server gives no states to learn from
    plain = guard.with_options(candidates=config.responses, beams=1, seed=config.seed)
    store = RolloutStore(folder, {"identity": plain.identity(), "prompts": list(prompts), "config": asdict(config)})
    starts = list(enumerate(range(0, len(prompts), config.batch)))[part.number - 1 :: part.of]
    total, done = sum(len(prompts[start : start + config.batch]) for _, start in starts), 0
    for number, start in starts:
        mine = prompts[start : start + config.batch]
        if not store.has(number):
            requests = [plain.request(prompt, seed=config.seed + start + at) for at, prompt in enumerate(mine)]
            store.put(number, sample_rollouts(plain.components, requests, responses=config.responses))
        done += len(mine)
        progress(done, total)
    return store


def assemble(store: RolloutStore, batches: int, batch: int) -> RolloutData:
    """All batches of a store as one data set."""
    parts = [store.get(number) for number in range(batches)]
    lengths = torch.cat([part["lengths"] for part in parts])
    return RolloutData(
        features=torch.cat([part["features"] for part in parts]),
        response=torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        position=torch.cat([torch.arange(int(length)) for length in lengths]),
        costs=torch.cat([part["costs"] for part in parts]),
        reward=torch.cat([part["reward"] for part in parts]),
        prompt=torch.cat([part["prompt"] + number * batch for number, part in enumerate(parts)]),
    )
