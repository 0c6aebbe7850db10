"""The report's pictures, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ig_plugins.research.evaluation.metrics import Figures, by_method
from ig_plugins.research.evaluation.results import ResultRow
from ig_plugins.research.plotting import new_figure, plain

# Okabe and Ito's palette, readable without colour vision; one colour a kind of method.
KINDS = (
    ("inferenceguard", "InferenceGuard", "#0072B2", "D"),
    ("beam", "beam search", "#009E73", "s"),
    ("bon", "best of N", "#E69F00", "^"),
    ("controlled", "controlled decoding", "#56B4E9", "v"),
    ("args", "ARGS", "#CC79A7", "P"),
    ("re-control", "RE-Control", "#D55E00", "X"),
    ("", "base", "#555555", "o"),
)


def kind(family: str) -> tuple[str, str, str]:
    """Name, colour and marker of a method's kind."""
    return next((name, colour, marker) for start, name, colour, marker in KINDS if family.startswith(start))


def largest(table: Sequence[Figures]) -> list[Figures]:
    """Each family at its largest number of candidates."""
    best: dict[str, Figures] = {}
    for each in table:
        if each.family not in best or each.candidates > best[each.family].candidates:
            best[each.family] = each
    return list(best.values())


def reward_against_safety(table: Sequence[Figures]) -> bytes:
    """The paper's figure: safety to the right, reward upwards, time as area. Numbers lead to the names."""
    shown = [each for each in largest(table) if each.reward is not None]
    figure = new_figure(9.6, 5.2)
    axes = figure.add_axes((0.08, 0.11, 0.52, 0.8))
    slowest = max((each.seconds_p50 for each in shown), default=1.0) or 1.0
    labels: list[tuple[float, float, Any]] = []
    for number, each in enumerate(shown, start=1):
        _, colour, marker = kind(each.family)
        x = 100 * (each.safe if each.unsafe is None else 1 - each.unsafe.value)
        y = each.reward or 0.0
        axes.scatter(
            x, y, s=40 + 300 * each.seconds_p50 / slowest, c=colour, marker=marker, alpha=0.75, edgecolors="white",
            clip_on=False,
        )  # fmt: skip
        near = next((label for a, b, label in labels if abs(x - a) < 2.5 and abs(y - b) < 0.15), None)
        if near is None:
            side = "right" if x > 90 else "left"  # labels at the right edge grow inwards, away from the list of names
            place = (-11 if side == "right" else 9, 7)
            style: Any = {"textcoords": "offset points", "fontsize": 8, "color": "#222222", "ha": side}
            label = axes.annotate(str(number), (x, y), place, **style)
            labels.append((x, y, label))
        else:  # points on top of each other share a label
            near.set_text(f"{near.get_text()}, {number}")
        name = f"{number}  {each.method}   ({each.seconds_p50:.2f} s)"
        figure.text(0.63, 0.88 - 0.042 * number, name, fontsize=8.5, color=colour)
    judged = any(each.unsafe is not None for each in shown)
    axes.set_xlabel("safe answers under the independent judge, %" if judged else "safe under the cost models, %")
    axes.set_ylabel("mean reward")
    axes.set_title("Reward against safety; area grows with time", fontsize=11, loc="left")
    axes.margins(0.1)
    end_at_100(axes)
    figure.text(0.63, 0.88, "method, at its largest N (median seconds)", fontsize=9, weight="bold")
    plain(axes)
    return _png(figure)


def cost_distribution(rows: Sequence[ResultRow], table: Sequence[Figures], limit: float) -> bytes:
    """Boxes of every method's costs, with the budget as a line."""
    grouped = by_method(rows)
    shown = [each for each in largest(table) if each.method in grouped][::-1]
    figure = new_figure(9.6, 0.9 + 0.34 * len(shown))
    axes = figure.add_subplot()
    costs = [[row.cost for row in grouped[each.method] if not row.blocked] or [float("nan")] for each in shown]
    boxes = axes.boxplot(
        costs, orientation="horizontal", widths=0.6, patch_artist=True, showfliers=True, flierprops={"markersize": 2}
    )
    for box, median, each in zip(boxes["boxes"], boxes["medians"], shown, strict=True):
        box.set_facecolor(kind(each.family)[1])
        box.set_alpha(0.6)
        median.set_color("#222222")
    axes.axvline(limit, color="#B00020", linestyle="--", linewidth=1)
    axes.annotate("budget", (limit, 1.0), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize=8, color="#B00020")  # fmt: skip
    axes.set_yticks(range(1, len(shown) + 1), [each.method for each in shown], fontsize=8)
    axes.set_xlabel("cost of an answer under the cost model")
    axes.set_title("Cost distribution", fontsize=11, loc="left", pad=14)
    plain(axes)
    figure.tight_layout()
    return _png(figure)


def unsafe_against_candidates(table: Sequence[Figures]) -> bytes | None:
    """Safety hacking: how often the judge disagrees as N grows. None without a judge or methods with candidates."""
    shown: dict[str, list[Figures]] = {}
    for each in table:
        if each.unsafe is not None and each.method != each.family:
            shown.setdefault(each.family, []).append(each)
    if not shown:
        return None
    counts = sorted({each.candidates for points in shown.values() for each in points})
    figure = new_figure(9.6, 1.2 + (0.16 + 0.14 * len(counts)) * len(shown))
    axes = figure.add_subplot()
    for place, (family, points) in enumerate(reversed(shown.items())):
        _, colour, marker = kind(family)
        for each in points:
            if each.unsafe is None:
                continue
            order = counts.index(each.candidates)
            value, low, high = (100 * part for part in (each.unsafe.value, each.unsafe.low, each.unsafe.high))
            y = place + 0.6 * ((len(counts) - 1) / 2 - order) / max(1, len(counts))
            axes.errorbar(
                value, y, xerr=[[value - low], [high - value]], color=colour, marker=marker, markersize=6,
                elinewidth=1, capsize=2, markerfacecolor=colour if order == len(counts) - 1 else "white", clip_on=False,
            )  # fmt: skip
            axes.annotate(
                f"{each.candidates}", (high, y), (4, -3), textcoords="offset points", fontsize=7, color=colour
            )
    axes.set_yticks(range(len(shown)), list(reversed(shown)), fontsize=9)
    axes.set_xlim(left=0)
    end_at_100(axes)
    axes.set_xlabel("unsafe under the independent judge, %")
    axes.set_title(
        f"Unsafe rate for N = {', '.join(map(str, counts))} candidates, with 95 % intervals; the largest N is filled",
        fontsize=11,
        loc="left",
    )
    plain(axes)
    figure.tight_layout()
    return _png(figure)


def effort(table: Sequence[Figures]) -> bytes:
    """Tokens sampled and judge calls per answer, on a logarithmic scale."""
    shown = largest(table)[::-1]
    figure = new_figure(9.6, 0.9 + 0.3 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, values in (
        (left, "tokens sampled per answer", [each.candidate_tokens for each in shown]),
        (right, "judge calls per answer", [each.judge_calls for each in shown]),
    ):
        bars = axes.barh(range(len(shown)), values, color=[kind(each.family)[1] for each in shown], alpha=0.8)
        axes.bar_label(bars, [f"{each:,.0f}" for each in values], padding=3, fontsize=7)
        axes.set_xscale("symlog")
        axes.set_xlim(0, max([*values, 1.0]) * 4)
        axes.set_title(title, fontsize=10, loc="left")
        plain(axes)
    left.set_yticks(range(len(shown)), [each.method for each in shown], fontsize=8)
    figure.tight_layout()
    return _png(figure)


def end_at_100(axes: Any) -> None:
    """A share cannot be more than 100 %, or less than 0: the axis does not go on."""
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, 0.0), min(right, 100.0))


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
