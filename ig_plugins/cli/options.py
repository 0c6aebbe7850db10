"""Options that several commands have, with one wording each."""

from __future__ import annotations

from typing import Annotated

import typer

CostModel = Annotated[str | None, typer.Option(help="A preset, checkpoint, module:function or file.py:function.")]
RewardModel = Annotated[str | None, typer.Option(help="As --cost-model.")]
Critic = Annotated[str | None, typer.Option(help="A folder or hub id.")]
MaxTokens = Annotated[int | None, typer.Option(help="The longest answer.")]
Column = Annotated[str | None, typer.Option(help="The column that holds the prompt.")]
Device = Annotated[str | None, typer.Option()]
