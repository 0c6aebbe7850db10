"""``inferenceguard calibrate``: from judged prompts to a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ig_plugins.cli import options, output, served_file

if TYPE_CHECKING:
    from critic_models.safety import SafetyBudget


@options.with_parts()
def calibrate(
    out: Annotated[Path, typer.Option(help="Where the certificate goes; a stopped run goes on there.")] = Path(
        "certificate.json"
    ),
    model: Annotated[
        str, typer.Option(help="The policy: a preset, a hub id, a folder or a server's address.")
    ] = "tiny-beaver",
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, CSV or text; bundled ones by default.")] = None,
    column: options.Column = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many prompts; 300 of the bundled ones.")] = None,
    judge: Annotated[str | None, typer.Option(help="Independent judge: a checkpoint, or exact (bundled).")] = None,
    judge_limit: Annotated[float | None, typer.Option(help="Scores above it are unsafe.")] = None,
    target: Annotated[float, typer.Option(help="α: the unsafe rate to stay below.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="1 - δ.")] = 0.95,
    limits: Annotated[
        list[str] | None,
        typer.Option(help="Budgets to test, separated by commas; repeat it for every further cost model."),
    ] = None,
    candidates: Annotated[int | None, typer.Option(min=1, max=1024, help="N.")] = None,
    pilot: Annotated[int, typer.Option(min=0, help="Prompts on which the cost in refusals is foreseen.")] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_tokens: options.MaxTokens = None,
    json: Annotated[bool, typer.Option("--json", help="The tested settings as JSON on standard output.")] = False,
    *,
    parts: dict[str, Any],
) -> None:
    """Certify the least strict budget that holds a target.

    Exit code 1 means that nothing could be certified.
    """
    output.check_extra("evaluation", "scipy")
    from rich.markup import escape

    from ig_plugins import InferenceGuard
    from ig_plugins.cli.evaluate import check_judge, read_prompts
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.research.calibration import feasibility
    from ig_plugins.research.calibration.guarded import calibrate_guard, strict_to_lax, with_limits
    from ig_plugins.research.calibration.guarded import pilot as fly
    from ig_plugins.research.evaluation.verdicts import EXACT, Verdicts, numbers

    tested = settings_of([numbers(each, "--limits") for each in limits]) if limits else None
    known = read_prompts(prompts, model=model, column=column, limit=300 if limit is None and prompts is None else limit)
    texts = [prompt.text for prompt in known]
    before = feasibility(len(texts), target=target, confidence=confidence)
    if not before.feasible:
        raise ConfigurationError(before.statement())
    chosen = judge or (EXACT if prompts is None else None)
    if chosen is None:
        raise ConfigurationError("--judge is needed: a certificate rests on a judge that is not the cost model itself")
    check_judge(chosen, limit=judge_limit)
    output.check_file(out)
    output.check_file(served_file.place(out))
    kept = out.with_name(f"{out.name}.answers.jsonl")
    output.check_file(kept)
    with output.loading(model):
        guard = InferenceGuard.from_pretrained(model, **parts, candidates=candidates, max_tokens=max_tokens)
        verdicts = Verdicts.load(chosen, limit=judge_limit, device=parts["device"])
    tested = _default_limits(guard.budget) if tested is None else tested
    for text in texts:
        guard.request(text)
    for each in strict_to_lax(tested, costs=len(guard.options.budgets)):
        with_limits(guard, each)  # refused here rather than after the pilot
    if pilot:
        with output.notes.status("asking the unguarded policy"):
            # Spread over the file, so that a sorted one is not judged by its head.
            some = texts[:: max(1, len(texts) // pilot)][:pilot]
            judged = fly(guard, some, verdicts, samples=guard.search.candidates, seed=seed)
        before = feasibility(len(texts), target=target, confidence=confidence, pilot=judged)
    output.notes.print(before.statement(), highlight=False)
    with output.progress_bar() as bar:
        task = bar.add_task("calibrating", total=len(texts) * len(tested))
        result = calibrate_guard(
            guard,
            texts,
            verdicts,
            limits=tested,
            target=target,
            confidence=confidence,
            seed=seed,
            on_answer=lambda: bar.advance(task),
            kept=kept,
        )
    if json:
        output.write_json([setting.model_dump() for setting in result.tested])
    output.notes.print(result.statement(), highlight=False)
    if result.certificate is None:
        kept.unlink()
        raise typer.Exit(1)
    output.notes.print(f"certificate: [bold]{escape(str(result.certificate.save(out)))}[/]", highlight=False)
    certified = with_limits(guard, result.certificate.chosen.overrides["limit"])
    budgets = [each.model_dump() for each in certified.options.budgets]
    served = served_file.write(
        out,
        Path(model).name,
        {"model": model, **parts},
        {"candidates": candidates, "max_tokens": max_tokens, "budget": budgets},
    )
    output.notes.print(f"to serve it: [bold]inferenceguard serve --config {escape(str(served))}[/]", highlight=False)
    kept.unlink()


def settings_of(limits: list[list[float]]) -> list[float | list[float]]:
    """From limits by cost model to limits by setting: the first of each, the second of each, and so on."""
    from ig_plugins.errors import ConfigurationError

    if len({len(each) for each in limits}) > 1:
        raise ConfigurationError(
            f"--limits hold {', '.join(str(len(each)) for each in limits)} numbers; give each cost model as many"
        )
    return list(limits[0]) if len(limits) == 1 else [list(setting) for setting in zip(*limits, strict=True)]


def _default_limits(budget: SafetyBudget) -> list[float | list[float]]:
    """Shares of an accumulating budget; a worst-case limit has no scale of its own, so only it is tested."""
    if budget.accounting == "cumulative":
        return [budget.limit * share for share in (0.1, 0.25, 0.5, 1.0)]
    return [budget.limit]
