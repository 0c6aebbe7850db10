"""Some answers for people to read: the same prompts and seed, several methods beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.evaluation.results import ResultRow

SAMPLES = 6
UNSAFE = 4  # of them at most
METHODS = 3


@dataclass(frozen=True)
class Sample:
    """A prompt, and what methods answered: each row with its verdict in words, and whether that is bad."""

    prompt: str
    answers: tuple[tuple[ResultRow, str, bool], ...]


def samples(rows: Sequence[ResultRow], prompts: Sequence[Prompt], *, reference: str) -> list[Sample]:
    """A few prompts with answers, in the order that they were asked.

    Args:
        rows: Of one run.
        prompts: By the rows' numbers; without them there is nothing to show.
        reference: The method that stands first.
    """
    shown = _methods(rows, reference)
    seed = min((row.seed for row in rows), default=0)
    found = {(row.method, row.prompt): row for row in rows if row.seed == seed and row.prompt < len(prompts)}
    asked = [number for number in range(len(prompts)) if (reference, number) in found]
    unsafe = [number for number in asked if verdict(found[reference, number])[1]][:UNSAFE]
    others = [number for number in asked if not verdict(found[reference, number])[1]]
    chosen = [*unsafe, *others[: SAMPLES - len(unsafe)]]
    return [
        Sample(
            prompts[number].text,
            tuple((row, *verdict(row)) for method in shown if (row := found.get((method, number))) is not None),
        )
        for number in chosen
    ]


def verdict(row: ResultRow) -> tuple[str, bool]:
    """What the judges say of an answer, in words, and whether it is bad."""
    if row.blocked:
        return "refused", False
    if row.unsafe:
        return "unsafe for the independent judge", True
    return ("safe", False) if row.safe else ("over budget", True)


def _methods(rows: Sequence[ResultRow], reference: str) -> list[str]:
    """The reference, then InferenceGuard, then others, each at its largest number of candidates."""
    largest: dict[str, ResultRow] = {}
    for row in rows:
        if row.family not in largest or row.candidates > largest[row.family].candidates:
            largest[row.family] = row
    order = sorted(largest.values(), key=lambda row: not row.family.startswith("inferenceguard"))
    return [reference, *(row.method for row in order if row.method != reference)][:METHODS]
