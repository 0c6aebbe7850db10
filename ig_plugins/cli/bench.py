"""``inferenceguard bench``: the search on a token tree against transformers' ``generate``, in one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from ig_plugins.cli import output

TARGETS = ((512, 16), (2048, 16))
FULL = ((512, 64),)


def bench(
    prompt: Annotated[int | None, typer.Option(min=1, help="One prompt length instead of the standing cases.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="With --prompt.")] = 16,
    new: Annotated[int, typer.Option(min=1, help="New tokens.")] = 64,
    block: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="More candidates too, and generate's allocator tuned.")] = False,
    path: Annotated[str, typer.Option(help="auto, segments, masked or portable.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Everything measured, as JSON on standard output.")] = False,
) -> None:
    """Compare the tree with generate() of one and of N: interleaved rounds, medians, one thread, random weights."""
    from ig_plugins.bench import Case, run, run_tuned

    sizes = ((prompt, candidates),) if prompt is not None else TARGETS + (FULL if full else ())
    cases = [
        replace(Case(), prompt=length, candidates=lanes, beams=max(1, lanes // 4), new=new, block=block)
        for length, lanes in sizes
    ]
    found = []
    with output.progress_bar() as bar:
        task = bar.add_task("measuring", total=len(cases) * (2 if full else 1))
        for case in cases:
            found.append({"allocator": "as it is", **run(case, repeats=repeats, path=path)})
            bar.advance(task)
            if full:
                found.append({"allocator": "tuned for generate", **run_tuned(case, repeats=repeats)})
                bar.advance(task)
    if json:
        output.write_json(found)
    else:
        _show(found)


def _show(found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    first = found[0]["case"]
    table = Table(
        title=f"{first['layers']} layers x {first['width']}, vocabulary {first['vocabulary']}; {first['new']} new "
        f"tokens in blocks of {first['block']}; median processor seconds",
        caption="the tree searches with N candidates; generate(N) samples N answers, generate(1) one",
    )
    for column in ("prompt", "N", "allocator", "path", "tree", "generate(1)", "generate(N)", "floor"):
        table.add_column(column, justify="right")
    table.add_column("tree / generate(1)", justify="right", style="bold")
    table.add_column("generate(N) / tree", justify="right", style="bold")
    for each in found:
        case, seconds, ratios = each["case"], each["seconds"], each["ratios"]["cpu"]
        table.add_row(
            str(case["prompt"]),
            str(case["candidates"]),
            each["allocator"],
            each["path"],
            *(f"{seconds[name]['cpu']:.2f}" for name in ("tree", "generate_1", "generate_n", "floor")),
            f"{ratios['tree/generate_1']:.2f}",
            f"{ratios['generate_n/tree']:.1f}",
        )
    output.console.print(table)
    for each in found:
        split = each["split"]
        total = sum(split.values())
        shares = ", ".join(f"{name} {100 * part / total:.0f} %" for name, part in split.items())
        memory = each["memory"]["tree"]
        output.console.print(
            f"prompt {each['case']['prompt']}, N {each['case']['candidates']}: {shares}; keys and values "
            f"{memory['allocated'] / 2**20:.0f} MiB in the tree, "
            f"{each['memory']['generate_n']['allocated'] / 2**20:.0f} MiB in generate(N)",
            highlight=False,
        )
