"""Pictures of a full benchmark, from the points in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ig_plugins.research.bench.points import CURVES
from ig_plugins.research.plotting import new_figure, plain

LINES = {
    "generate_n": ("generate() of N", "#B5482F", "s"),
    "tree": ("tree, N candidates", "#1F5FA8", "o"),
    "generate_1": ("generate() of 1", "#5A8F3C", "^"),
}
LABELS = {
    "candidates": "candidates N",
    "prompt": "tokens of the prompt",
    "prompts": "prompts a batch",
    "new": "new tokens",
}


def draw(found: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Write the pictures that the points suffice for; returns their files.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    files = []
    cases = [each for each in found.values() if each["group"] in ("targets", "tuned")]
    if cases:
        files.append(_save(_cases(cases), folder / "bench_cases.png"))
    curves = {axis: _along(found, axis) for axis in CURVES}
    curves = {axis: points for axis, points in curves.items() if len(points) > 1}
    if curves:
        files.append(_save(_curves(curves), folder / "bench_curves.png"))
    if "blocks" in found:
        files.append(_save(_blocks(found["blocks"]), folder / "bench_blocks.png"))
    return files


def _along(found: Mapping[str, dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    return sorted((each for each in found.values() if each["group"] == axis), key=lambda each: each["case"][axis])


def _cases(cases: list[dict[str, Any]]) -> Any:
    """Processor seconds of the standing cases, the slowest `generate` on top."""
    cases = sorted(cases, key=lambda each: each["seconds"]["generate_n"]["cpu"])
    figure = new_figure(9.0, 1.1 + 0.85 * len(cases))
    axes = figure.add_subplot()
    for place, (name, (label, colour, _)) in enumerate(LINES.items()):
        seconds = [each["seconds"][name]["cpu"] for each in cases]
        bars = axes.barh(
            [row + 0.27 * (1 - place) for row in range(len(cases))], seconds, 0.25, color=colour, label=label
        )
        axes.bar_label(bars, [f"{each:.1f}" for each in seconds], padding=3, fontsize=7.5)
    axes.set_yticks(range(len(cases)), [_title(each) for each in cases], fontsize=8.5)
    axes.set_xscale("log")
    axes.set_xlim(1, 2.5 * max(each["seconds"]["generate_n"]["cpu"] for each in cases))
    axes.set_xlabel(f"processor seconds for {cases[0]['case']['new']} new tokens, logarithmic")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    plain(axes)
    axes.grid(False, axis="y")
    figure.tight_layout()
    return figure


def _title(each: Mapping[str, Any]) -> str:
    allocator = "as it is" if each["environment"]["malloc"] == "default" else "tuned"
    return f"prompt {each['case']['prompt']}, N = {each['case']['candidates']}\nallocator {allocator}"


def _curves(curves: Mapping[str, list[dict[str, Any]]]) -> Any:
    """Processor seconds along every axis, both scales logarithmic."""
    from matplotlib.ticker import LogLocator

    rows = (len(curves) + 1) // 2
    figure = new_figure(10.0, 0.6 + 3.7 * rows)
    for place, (axis, points) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, 2, place + 1)
        for name, (label, colour, marker) in LINES.items():
            shown = [each for each in points if name in each["seconds"]]
            axes.plot(
                [each["case"][axis] for each in shown], [each["seconds"][name]["cpu"] for each in shown],
                color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=label,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        values = [each["case"][axis] for each in points]
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.set_xlabel(LABELS[axis])
        axes.set_ylabel("processor seconds")
        axes.set_title(_rest(points[0]["case"], axis), fontsize=8.5, loc="left", color="#555555")
        plain(axes)
        if place == 0:
            axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return figure


def _rest(case: Mapping[str, int], axis: str) -> str:
    fixed = {
        "prompts": f"{case['prompts']} prompt{'s' if case['prompts'] > 1 else ''}",
        "prompt": f"of {case['prompt']} tokens",
        "candidates": f"N = {case['candidates']}",
        "new": f"{case['new']} new tokens",
    }
    return ", ".join(words for each, words in fixed.items() if each != axis)


def _blocks(found: Mapping[str, Any]) -> Any:
    """Seconds of every block of one answer."""
    blocks, case = found["blocks"], found["case"]
    figure = new_figure(6.4, 3.2)
    axes = figure.add_subplot()
    axes.bar(range(1, len(blocks) + 1), blocks, color="#1F5FA8", alpha=0.85)
    axes.axhline(1.15 * blocks[1], color="#B5482F", linewidth=1.0, linestyle="--")
    axes.annotate("2nd block + 15 %", (0.5, 1.15 * blocks[1]), fontsize=8, color="#B5482F", va="bottom")
    axes.set_ylim(0, 1.4 * max(blocks))
    axes.set_xlabel(f"block of {case['block']} tokens; prompt {case['prompt']}, N = {case['candidates']}")
    axes.set_ylabel("processor seconds")
    plain(axes)
    figure.tight_layout()
    return figure


def _save(figure: Any, file: Path) -> Path:
    figure.savefig(file, dpi=120)
    return file
