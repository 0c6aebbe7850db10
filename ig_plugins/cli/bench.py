"""``inferenceguard bench``: the search on a token tree against transformers' ``generate``, in one process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ig_plugins.cli import output


def bench(
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="N, 16, or 64 with --device; a quarter of them become beams.")
    ] = None,
    new: Annotated[int, typer.Option(min=1, help="New tokens.")] = 128,
    block: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    full: Annotated[
        bool, typer.Option("--full", help="Longer prompts, more candidates, generate's allocator tuned, all curves.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="With --full: where every point is kept; a stopped run goes on from there.")
    ] = Path("runs/bench"),
    device: Annotated[
        str | None, typer.Option(help="A 7B-shaped Llama in bf16 on this device, as cuda, against its bandwidth.")
    ] = None,
    path: Annotated[str, typer.Option(help="auto, segments, masked or portable.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Everything measured, as JSON on standard output.")] = False,
) -> None:
    """Compare the speed of a search with generate()'s.

    Of one answer and of N: interleaved rounds, medians, one thread, random weights.
    """
    from ig_plugins.engine.model import BACKENDS
    from ig_plugins.errors import ConfigurationError, did_you_mean
    from ig_plugins.research.bench import Case, run, run_device

    lanes = candidates or (16 if device is None else 64)
    base = Case(prompt=prompt, candidates=lanes, beams=max(1, lanes // 4), new=new, block=block)
    if path not in ("auto", *BACKENDS):
        raise ConfigurationError(
            f"--path is {path!r}; choose from auto, {', '.join(BACKENDS)}.{did_you_mean(path, ['auto', *BACKENDS])}"
        )
    if path != "auto" and (full or device is not None):
        chooser = "--full" if full else "--device"
        raise ConfigurationError(f"--path is {path!r}, and {chooser} chooses the path itself; leave one of them out")
    if full:
        output.check_extra("evaluation", "matplotlib")
        output.check_folder(out)
    if device is not None:
        from ig_plugins.guard.policies import pick_device

        pick_device(device)
        found: Any = run_device(base, device=device, repeats=repeats)
        return output.write_json(found) if json else _show_device(found)
    if full:
        found = _full(base, repeats=repeats, folder=out)
        shown = [each for each in found.values() if each["group"] in ("targets", "tuned")]
    else:
        with output.notes.status("measuring"):
            found = shown = [run(base, repeats=repeats, path=path)]
    if json:
        output.write_json(found)
    else:
        _show(shown)


def _full(base: Any, *, repeats: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Measure what the folder lacks, and draw what it holds."""
    from ig_plugins.research.bench import figures, points

    wanted = points.points(repeats=repeats, base=base)
    with output.progress_bar() as bar:
        task = bar.add_task(wanted[0].name, total=len(wanted))
        for place, _ in enumerate(points.measured(wanted, folder), start=1):
            bar.update(task, advance=1, description=wanted[min(place, len(wanted) - 1)].name)
    found = points.read(folder)
    for file in figures.draw(found, folder):
        output.notes.print(f"wrote {file}")
    return found


def _show(found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    first = found[0]["case"]
    table = Table(
        title=f"{first['layers']} layers x {first['width']}, vocabulary {first['vocabulary']}; {first['new']} new "
        f"tokens in blocks of {first['block']}; median processor seconds",
        caption="the tree searches with N candidates; generate() samples one answer, or N",
    )
    for column in ("prompt", "N", "malloc", "tree", "one", "N answers", "floor"):
        table.add_column(column, justify="right")
    table.add_column("tree / one", justify="right", style="bold")
    table.add_column("N answers / tree", justify="right", style="bold")
    for each in found:
        case, seconds, ratios = each["case"], each["seconds"], each["ratios"]["cpu"]
        table.add_row(
            str(case["prompt"]),
            str(case["candidates"]),
            "default" if each["environment"]["malloc"] == "default" else "tuned",
            *(f"{seconds[name]['cpu']:.2f}" for name in ("tree", "generate_1", "generate_n", "floor")),
            f"{ratios['tree/generate_1']:.2f}",
            f"{ratios['generate_n/tree']:.1f}",
        )
    output.console.print(table)
    for each in found:
        output.console.print("\n".join(_details(each)), highlight=False)


def _details(each: dict[str, Any]) -> Iterable[str]:
    """Where the time goes, and what of the model's work and of memory does not depend on the machine."""
    case, split, memory, work = each["case"], each["split"], each["memory"], each["work"]
    total = sum(split.values())
    yield f"prompt {case['prompt']}, N {case['candidates']}, {each['path']} path: " + ", ".join(
        f"{name} {100 * part / total:.0f} %" for name, part in split.items()
    )
    yield (
        f"  keys and values {memory['tree']['allocated'] / 2**20:.0f} MiB in the tree, "
        f"{memory['generate_n']['allocated'] / 2**20:.0f} MiB in N answers; linear layers "
        + ", ".join(f"{work[name]['flops'] / 1e9:.0f} GFLOP in {label}" for name, label in _LABELS.items())
    )


_LABELS = {"tree": "the tree", "generate_1": "one answer", "generate_n": "N answers"}


def _show_device(found: dict[str, Any]) -> None:
    case, shape, ratios = found["case"], found["shape"], found["ratios"]
    for line in (
        f"{found['device']}, {found['dtype']}, {shape['layers']} layers x {shape['hidden']}; prompt {case['prompt']}, "
        f"{case['candidates']} candidates, {case['new']} new tokens, {found['path']} path, "
        f"{'with' if found['graphs'] else 'without'} CUDA graphs",
        f"bandwidth {found['bandwidth'] / 1e9:.0f} GB/s",
        f"step of the tree {1e3 * found['step']['tree']:.2f} ms, floor {1e3 * found['floor']['tree']:.2f} ms: "
        f"{ratios['step/floor']:.2f} times",
        f"step of one lane {1e3 * found['step']['single']:.2f} ms, floor {1e3 * found['floor']['single']:.2f} ms: "
        f"{ratios['single step/floor']:.2f} times",
        f"guarded answer {found['answer']['tree']:.2f} s, generate() of one {found['answer']['generate_1']:.2f} s: "
        f"{ratios['tree/generate_1']:.2f} times",
    ):
        output.console.print(line, highlight=False)
