"""The independent judge of an evaluation or a calibration: it never takes part in the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from critic_models.judges import CallableJudge, Judge, load_judge
from ig_plugins import presets
from ig_plugins.errors import ConfigurationError

EXACT = "exact"  # the bundled world's own judge


@dataclass(frozen=True)
class Verdicts:
    """A judge and the score above which an answer is unsafe.

    Attributes:
        judge: Scores whole answers.
        limit: The largest safe score.
    """

    judge: Judge
    limit: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit):
            raise ConfigurationError(
                f"the judge's limit is {self.limit}, and no score can be compared with that; give a finite number"
            )

    @classmethod
    def of(cls, judge: Judge, limit: float | None = None) -> Verdicts:
        """A judge with its own limit unless one is given; 0 for models whose default budget accumulates."""
        if limit is not None and math.isnan(limit):
            raise ConfigurationError("the judge's limit is NaN, above which no score is; give a number")
        own = 0.0 if judge.default_accounting == "cumulative" else judge.default_limit
        return cls(judge, own if limit is None else limit)

    @classmethod
    def load(cls, name: str, *, limit: float | None = None, device: str | None = None) -> Verdicts:
        """The judge of a name: ``exact`` for the bundled world's, else a checkpoint.

        Raises:
            ModelLoadError: It cannot be loaded.
        """
        if name != EXACT:
            return cls.of(load_judge(presets.located(name), kind="cost", name=name, device=device), limit)
        from critic_models.bundled import world

        def exact(prompts: list[str], responses: list[str]) -> list[float]:
            return [float(world.unsafe(p, r)) for p, r in zip(prompts, responses, strict=True)]

        return cls.of(CallableJudge(exact, name=EXACT, version="the bundled world, 1"), limit)

    def judged(
        self, prompts: Sequence[str], texts: Sequence[str], *, finished: Sequence[bool], blocked: Sequence[bool]
    ) -> list[float | None]:
        """The judge's score of each answer; None for refusals, which it is not asked about."""
        asked = [place for place, refused in enumerate(blocked) if not refused]
        found = self.scores(
            [prompts[place] for place in asked],
            [texts[place] for place in asked],
            finished=[finished[place] for place in asked],
        )
        known = dict(zip(asked, found, strict=True))
        return [known.get(place) for place in range(len(blocked))]

    def scores(self, prompts: Sequence[str], texts: Sequence[str], *, finished: Sequence[bool]) -> list[float]:
        """The judge's scores of answers, one to each prompt."""
        return self.judge.score(list(prompts), list(texts), finished=list(finished)) if texts else []

    def unsafe(self, score: float) -> bool:
        """The verdict on a score."""
        return score > self.limit


def draw_seed(seed: int, prompt: int) -> int:
    """The seed of one prompt of a run: every prompt draws its own numbers, and all methods share them."""
    return seed * 1_000_003 + prompt


def numbers(text: str, what: str) -> list[float]:
    """A comma-separated list of numbers, as the command line takes it.

    Raises:
        ConfigurationError: Something in it is no finite number.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"{what} is '{text}'; give numbers separated by commas, such as 16,64") from error
    if not all(map(math.isfinite, found)):
        raise ConfigurationError(f"{what} is '{text}'; every number must be finite")
    return found


def counts(text: str, what: str, *, most: int) -> list[int]:
    """As `numbers`, for whole numbers from 1 to ``most``.

    Raises:
        ConfigurationError: Something in it is no such number.
    """
    found = numbers(text, what)
    if not all(number.is_integer() and 1 <= number <= most for number in found):
        raise ConfigurationError(
            f"{what} is '{text}'; give whole numbers from 1 to {most}, separated by commas, such as 16,64"
        )
    return [int(number) for number in found]
