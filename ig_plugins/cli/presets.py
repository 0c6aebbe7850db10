"""``inferenceguard presets``: what the names stand for."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ig_plugins.cli import output
from ig_plugins.presets import Preset


def presets(
    json: Annotated[bool, typer.Option("--json", help="All presets as JSON on standard output.")] = False,
) -> None:
    """List the presets: models, prompt format, accounting, budget, block size and licences."""
    from ig_plugins.presets import names, preset

    found = [preset(name) for name in names()]
    if json:
        output.write_json([each.model_dump(mode="json") for each in found])
        return
    for each in found:
        output.console.print(f"[bold]{each.name}[/]  {each.description}", highlight=False)
        output.console.print(_rows(each))


def _rows(preset: Preset) -> Table:
    """One preset: a line for each checkpoint, then the settings."""
    budget, search = preset.cost.budget, preset.search
    parts = [("policy", preset.policy), ("cost", preset.cost), ("reward", preset.reward)]
    parts += [("critic", preset.critic)] if preset.critic else []
    parts += [(f"reward of {preset.name}:{name}", part) for name, part in preset.variants.items()]
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, part in parts:
        table.add_row(name, part.source, f"[dim]{part.licence}[/]")
    table.add_row("format", preset.prompt_format, "")
    table.add_row("budget", f"{budget.accounting}, limit {budget.limit:g}, discount {budget.discount:g}", "")
    searched = f"{search.candidates} candidates, {search.beams} beams, blocks of {search.block_tokens}"
    table.add_row("search", f"{searched}, at most {search.max_new_tokens} tokens", "")
    return table
