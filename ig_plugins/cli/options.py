"""Options that several commands have, with one wording each."""

from __future__ import annotations

from typing import Annotated

import typer

CostModel = Annotated[str | None, typer.Option(help="A preset, checkpoint, module:function or file.py:function.")]
RewardModel = Annotated[str | None, typer.Option(help="As --cost-model.")]
Critic = Annotated[str | None, typer.Option(help="A folder or hub id.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="The longest answer.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many prompts.")]
Column = Annotated[str | None, typer.Option(help="The column that holds the prompt.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the best there is by default.")]
