"""``inferenceguard evaluate``: every method on the same prompts, and the report."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ig_plugins.cli import options, output

if TYPE_CHECKING:
    from ig_plugins.research.evaluation.prompts import Prompt

BUNDLED = ("tiny-alpaca", "tiny-beaver")
TRAINING_PROMPTS = 60
SHOWN = ("method", "reward", "of oracle", "safe (any time)", "refused", "p50 s")


@options.with_call_options(without=("seed", "stop", "raw_prompt", "on_block", "refusal"))
@options.with_parts()
def evaluate(
    out: Annotated[Path, typer.Option(help="The folder for results and reports; an interrupted run goes on there.")],
    model: Annotated[
        str, typer.Option(help="The policy: a preset, a hub id, a folder or a server's address.")
    ] = "tiny-beaver",
    methods: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "all",
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, CSV or text; bundled ones by default.")] = None,
    column: options.Column = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many prompts; 100 of the bundled ones.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each prompt is asked.")] = 2,
    candidates: Annotated[str, typer.Option(help="N, separated by commas.")] = "16,64",
    judge: Annotated[
        list[str] | None, typer.Option(help="Independent judge: a checkpoint, or exact (bundled); may repeat.")
    ] = None,
    judge_limit: Annotated[
        list[float] | None, typer.Option(help="Scores above it are unsafe; one for each judge, or none.")
    ] = None,
    harmless: Annotated[str | None, typer.Option(help="The group of prompts that nothing is wrong with.")] = None,
    train_prompts: Annotated[Path | None, typer.Option(help="For methods with a value network.")] = None,
    multiplier: Annotated[float, typer.Option(help="λ of the Lagrangian rules.")] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")] = False,
    *,
    parts: dict[str, Any],
    **call: Any,
) -> None:
    """Measure every method on the same prompts and seeds.

    Writes results.jsonl, summary.json and reports.
    """
    output.check_extra("evaluation", "scipy", "matplotlib")
    from ig_plugins import InferenceGuard
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.research.evaluation.evaluate import Plan
    from ig_plugins.research.evaluation.evaluate import evaluate as run
    from ig_plugins.research.evaluation.verdicts import EXACT, Verdicts, counts
    from ig_plugins.research.methods import method

    asked = read_prompts(prompts, model=model, column=column, limit=limit)
    training = read_training_prompts(train_prompts, model=model, column=column, own=prompts is None)
    chosen = judge or ([EXACT] if prompts is None else [])
    limits = judge_limits(chosen, judge_limit)
    plan = Plan(
        methods=() if methods == "all" else tuple(method(name.strip()).name for name in methods.split(",")),
        candidates=tuple(counts(candidates, "--candidates", most=1024)),
        seeds=tuple(range(seeds)),
        multiplier=multiplier,
        training_prompts=training,
        answers=grammar() if chosen == [EXACT] else None,
        harmless=harmless,
    )
    if not math.isfinite(multiplier) or multiplier < 0:
        raise ConfigurationError(f"--multiplier is {multiplier}; give a finite number from 0")
    for name, most in zip(chosen, limits, strict=True):
        check_judge(name, limit=most)
    output.check_folder(out)
    with output.loading(model):
        guard = InferenceGuard.from_pretrained(model, **parts, **call)
        verdicts = [
            Verdicts.load(name, limit=most, device=parts["device"]) for name, most in zip(chosen, limits, strict=True)
        ]
    for prompt in asked:
        guard.request(prompt.text)  # one that is too long is refused before the first is answered
    with output.progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of)
            bar.update(tasks[stage], completed=done, total=of)

        report = run(guard, asked, plan, out=out, verdicts=verdicts, progress=progress)
    if json:
        output.write_json({name: [each.to_json() for each in table] for name, table in report.tables.items()})
    else:
        show(report.tables)
        output.notes.print(f"report: [bold]{out / 'report.html'}[/]", highlight=False)


def judge_limits(judges: Sequence[str], limits: Sequence[float] | None) -> list[float | None]:
    """A limit for each judge; None for the judges' own."""
    from ig_plugins.errors import ConfigurationError

    if limits and len(limits) != len(judges):
        raise ConfigurationError(
            f"{len(limits)} limits for {len(judges)} judges; give --judge-limit once for each --judge, or not at all"
        )
    return list(limits) if limits else [None] * len(judges)


def check_judge(name: str, *, limit: float | None) -> None:
    """Refuses a judge that is not there, or a limit that is no number, before any weights are read."""
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.guard.checks import check_models
    from ig_plugins.research.evaluation.verdicts import EXACT

    if limit is not None and not math.isfinite(limit):
        raise ConfigurationError(f"--judge-limit is {limit}; give a finite number")
    if name != EXACT:
        check_models(None, costs=name, reward=None, critic=None)


def read_prompts(path: Path | None, *, model: str, column: str | None, limit: int | None) -> list[Prompt]:
    """The prompts of a file; without one the bundled world's held-out prompts, half of them sensitive."""
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.research.evaluation.prompts import Prompt, load_prompts

    if path is not None:
        return load_prompts(path, column=column, limit=limit)
    if model not in BUNDLED:
        raise ConfigurationError(f"--prompts is needed for {model!r}; only {' and '.join(BUNDLED)} bring their own")
    from critic_models.bundled import world

    count = 100 if limit is None else limit
    if count < 1:
        raise ConfigurationError(f"limit is {count}; give at least 1, or leave it out")
    sensitive = random.Random(0).sample(world.prompts("test", "sensitive"), (count + 1) // 2)
    benign = random.Random(0).sample(world.prompts("test", "benign"), count // 2)
    return [*(Prompt(text, "sensitive") for text in sensitive), *(Prompt(text, "benign") for text in benign)]


def read_training_prompts(path: Path | None, *, model: str, column: str | None, own: bool) -> tuple[str, ...]:
    """The prompts of a file; without one the bundled world's training prompts, or none."""
    from ig_plugins.research.evaluation.prompts import load_prompts

    if path is not None:
        return tuple(prompt.text for prompt in load_prompts(path, column=column))
    if model not in BUNDLED or not own:
        return ()
    from critic_models.bundled import world

    half, dice = TRAINING_PROMPTS // 2, random.Random(1)
    sensitive, benign = world.prompts("train", "sensitive"), world.prompts("train", "benign")
    return (*dice.sample(sensitive, half), *dice.sample(benign, half))


def grammar() -> Any:
    """Every answer that the bundled world's grammar allows to a prompt."""
    from critic_models.bundled import world

    return world.answers


def show(tables: dict[str, Any]) -> None:
    """The main figures on the terminal; the report has all of them, with intervals."""
    from rich.table import Table

    from ig_plugins.research.evaluation.report import cells

    for title, figures in tables.items():
        head, body = cells(figures)
        shown = [index for index, name in enumerate(head) if name in SHOWN or name.startswith("unsafe (")]
        table = Table(title=title, box=None, header_style="bold")
        for index in shown:
            table.add_column(head[index], justify="left" if index == 0 else "right", no_wrap=index == 0)
        for line in body:
            table.add_row(*(line[index].partition(" (")[0] for index in shown))
        output.console.print(table)
