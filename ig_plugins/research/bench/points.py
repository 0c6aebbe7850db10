"""What a full benchmark measures, point by point; each is a file of its own, so that a stopped run can go on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.run import ALL, block_times, run, run_tuned, sampling

# `generate` of N copies every prompt N times; beyond so many tokens of copies one round takes many minutes.
COPIES = 2**15

CURVES = {
    "new": (32, 64, 128, 256, 512),
    "candidates": (1, 2, 4, 8, 16, 32, 64, 128),
    "prompt": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "prompts": (1, 2, 4, 8, 16, 32),
}


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        name: Of its file.
        group: ``targets``, ``tuned``, ``blocks``, ``sampling`` or an axis of ``CURVES``.
        measure: Makes it, as a plain dictionary.
    """

    name: str
    group: str
    measure: Callable[[], dict[str, Any]]


def along(axis: str, value: int, base: Case) -> Case:
    """The base with one axis changed; beams stay a quarter of the candidates."""
    beams = {"beams": max(1, value // 4)} if axis == "candidates" else {}
    return replace(base, **{axis: value}, **beams)


def names(case: Case) -> tuple[str, ...]:
    """The contenders that are affordable."""
    if case.prompts * case.prompt * case.candidates <= COPIES:
        return ALL
    return tuple(name for name in ALL if name != "generate_n")


def points(*, repeats: int, base: Case | None = None) -> list[Point]:
    """All that ``inferenceguard bench --full`` measures, the most telling first.

    Args:
        repeats: Rounds of the standing cases; the curves have one.
        base: The standing case.
    """
    base = base or Case(new=128)
    standing = {
        f"prompt-{base.prompt}": base,
        f"candidates-{4 * base.candidates}": along("candidates", 4 * base.candidates, base),
        f"prompt-{4 * base.prompt}": replace(base, prompt=4 * base.prompt),
    }
    found = []
    for name, case in standing.items():
        found.append(Point(f"target-{name}", "targets", lambda case=case: run(case, repeats=repeats)))  # type: ignore[misc]
        found.append(Point(f"tuned-{name}", "tuned", lambda case=case: run_tuned(case, repeats=repeats)))  # type: ignore[misc]
    found.append(Point("blocks", "blocks", lambda: block_times(replace(base, new=16 * base.block), repeats=repeats)))
    found.append(Point("sampling", "sampling", sampling))
    short = replace(base, new=max(base.block, base.new // 2))
    for axis, values in CURVES.items():
        for value in values:
            case = along(axis, value, short)
            found.append(
                Point(f"{axis}-{value}", axis, lambda case=case: run(case, repeats=1, names=names(case)))  # type: ignore[misc]
            )
    return found


def measured(wanted: list[Point], folder: Path) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Measure points one after another, and keep each in the folder at once; what is there is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    for point in wanted:
        file = folder / f"{point.name}.json"
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps({"group": point.group, **point.measure()}, indent=1) + "\n")
            partial.replace(file)
        yield point, json.loads(file.read_text())


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every point in the folder, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
