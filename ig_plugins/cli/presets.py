"""``inferenceguard presets``: what the names stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ig_plugins.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from critic_models.safety import SafetyBudget
    from ig_plugins.presets import Checkpoint, Preset


def presets(
    json: Annotated[bool, typer.Option("--json", help="All presets as JSON on standard output.")] = False,
) -> None:
    """List the presets, with their models and licences."""
    from ig_plugins.presets import names, preset

    found = [preset(name) for name in names()]
    if json:
        output.write_json([each.model_dump(mode="json") for each in found])
        return
    for each in found:
        output.console.print(f"[bold]{each.name}[/]  {each.description}", highlight=False)
        output.console.print(_checkpoints(each))
        output.console.print(_settings(each), highlight=False)


def _checkpoints(preset: Preset) -> Table:
    """A line for each checkpoint of a preset."""
    from rich.table import Table

    parts: list[tuple[str, Checkpoint]] = [("policy", preset.policy), *(("cost", cost) for cost in preset.costs)]
    if preset.reward is not None:
        parts.append(("reward", preset.reward))
    parts += [("critic", preset.critic)] if preset.critic else []
    parts += [(f"reward of :{name}", part) for name, part in preset.variants.items()]
    table = Table(box=None, show_header=False, padding=(0, 2))
    for column in ("part", "checkpoint", "licence"):
        table.add_column(column, no_wrap=column != "licence")
    for name, part in parts:
        table.add_row(name, part.source, f"[dim]{part.licence}[/]")
    return table


def _settings(preset: Preset) -> str:
    """Prompt format, budget and search in one line."""
    search = preset.search
    budgets = "; ".join(_budget(cost.budget) for cost in preset.costs)
    return (
        f"  format {preset.prompt_format}; {budgets}; "
        f"{search.candidates} candidates, {search.beams} beams, blocks of {search.block_tokens}, "
        f"at most {search.max_new_tokens} tokens"
    )


def _budget(budget: SafetyBudget | Literal["own"]) -> str:
    if budget == "own":
        return "the cost model's own budget"
    return f"{budget.accounting} budget {budget.limit:g}, discount {budget.discount:g}"
