"""``inferenceguard train-critic``: from prompts to a folder that ``critic=`` accepts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ig_plugins.cli import options, output


@options.with_parts(without=("critic", "no_critic"))
def train_critic(
    prompts: Annotated[Path, typer.Argument(help="JSON lines, CSV or plain text.")],
    out: Annotated[Path, typer.Option(help="The folder for the critic.")],
    model: Annotated[str, typer.Option(help="The policy: a preset, a hub id or a local folder.")] = "tiny-beaver",
    budget: Annotated[float | None, typer.Option(help="The budget's limit; the preset's by default.")] = None,
    unseen: Annotated[
        Path | None, typer.Option(help="Prompts about topics that none of the others is about: measured for the card.")
    ] = None,
    column: options.Column = None,
    limit: options.Limit = None,
    responses: Annotated[int, typer.Option(min=1, help="Rollouts per prompt.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Prompts decoded together.")] = 16,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest rollout.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    part: Annotated[
        str | None,
        typer.Option(
            help="Such as 2/8: collect this part of the rollouts into OUT/rollouts and stop. Machines that share "
            "the folder take a part each; a run without it trains on all of them."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of training.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The metrics as JSON on standard output.")] = False,
    *,
    parts: dict[str, Any],
) -> None:
    """Train the latent critic of a policy from its own rollouts. An interrupted run goes on where it stopped."""
    from critic_models.training.card import write_card
    from critic_models.training.critic import CriticTrainingConfig
    from ig_plugins import InferenceGuard
    from ig_plugins.research.evaluation.prompts import load_prompts
    from ig_plugins.research.rollouts import Part, RolloutConfig, collect_rollouts
    from ig_plugins.research.rollouts import train_critic as train

    mine = None if part is None else Part.parse(part)
    apart = [prompt.text for prompt in load_prompts(unseen, column=column)] if unseen else []
    texts = [prompt.text for prompt in load_prompts(prompts, column=column, limit=limit)]
    output.check_folder(out)
    with output.loading(model):
        guard = InferenceGuard.from_pretrained(model, **parts, critic=False, budget=budget, max_tokens=max_tokens)
    rollouts = RolloutConfig(responses=responses, batch=batch, seed=seed)
    with output.progress_bar() as bar:
        stages = ("rollouts", *(["unseen"] if apart else []), *(["training"] if mine is None else []))
        tasks = {stage: bar.add_task(stage, total=None) for stage in stages}

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(tasks[stage], completed=done, total=total)

        if mine is not None:
            collect_rollouts(
                guard, texts, out / "rollouts", unseen=apart, rollouts=rollouts, part=mine, progress=progress
            )
            output.notes.print(f"part {mine.number} of {mine.of} is in [bold]{out / 'rollouts'}[/]", highlight=False)
            return
        critic, metrics = train(
            guard,
            texts,
            out / "rollouts",
            unseen=apart,
            rollouts=rollouts,
            training=CriticTrainingConfig.model_validate({"seed": seed, **({"epochs": epochs} if epochs else {})}),
            command=shlex.join(["inferenceguard", *sys.argv[1:]]),
            progress=progress,
        )
    critic.save_pretrained(out)
    write_card(critic, metrics, out)
    if json:
        output.write_json(metrics)
    else:
        output.notes.print(f"critic saved in [bold]{out}[/]; its card is {out / 'README.md'}", highlight=False)
