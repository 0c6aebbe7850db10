"""``inferenceguard train-judge``: from labelled answers or preference pairs to a folder for ``cost_model=``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ig_plugins.cli import options, output

if TYPE_CHECKING:
    from critic_models.training.heads.probe import ProbeTraining
    from critic_models.training.heads.text import TextTraining


def train_judge(
    data: Annotated[
        list[Path], typer.Argument(help="JSON lines or CSV: prompt, response, label; or chosen, rejected.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for the judge.")],
    kind: Annotated[Literal["text", "probe"], typer.Option(help="Reads text, or the policy's hidden states.")] = "text",
    model: Annotated[str | None, typer.Option(help="A probe's policy: a preset, hub id or folder.")] = None,
    policy_id: Annotated[str | None, typer.Option(help="What the card calls the policy.")] = None,
    prompt_format: options.PromptFormat = None,
    layers: Annotated[str | None, typer.Option(help="Of a probe: the layers to try, such as 12,16,30.")] = None,
    read_tokens: Annotated[int, typer.Option(min=1, help="A probe learns from an answer's first so many tokens.")] = 96,
    encoder: Annotated[list[str] | None, typer.Option(help="A sentence encoder; repeat it for other places.")] = None,
    words: Annotated[bool, typer.Option(help="Read hashed word n-grams.")] = True,
    chars: Annotated[bool, typer.Option(help="Read hashed character n-grams as well.")] = False,
    read_prompt: Annotated[bool, typer.Option(help="N-grams of the prompt as well.")] = False,
    length: Annotated[bool, typer.Option(help="Read the response's length.")] = False,
    buckets: Annotated[int, typer.Option(help="Weights of the n-grams.")] = 2**16,
    pair_weight: Annotated[float, typer.Option(min=0, help="Of a pair, where an answer counts 1.")] = 1.0,
    test: Annotated[list[str] | None, typer.Option(help="NAME=FILE to measure on; its prompts are not learnt.")] = None,
    harmless: Annotated[Path | None, typer.Option(help="Harmless prompts and responses, for the threshold.")] = None,
    flag_at_most: Annotated[float, typer.Option(help="Share of harmless answers that may be flagged.")] = 0.05,
    held_out: Annotated[float, typer.Option(help="Share of the prompts that is only measured on.")] = 0.2,
    licence: Annotated[str | None, typer.Option(help="Of the head, for its card.")] = None,
    attribution: Annotated[str | None, typer.Option(help="Where the data come from, for the card.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: options.Device = None,
    json: Annotated[bool, typer.Option("--json", help="The card's facts as JSON on standard output.")] = False,
) -> None:
    """Train a judge from labelled answers or preference pairs.

    The first make a cost model, the second a reward model; measured on prompts that it never saw.
    """
    from critic_models.judges.heads import NgramConfig
    from critic_models.training.heads.card import write_card
    from critic_models.training.heads.text import TextTraining
    from critic_models.training.heads.train import JudgeTraining
    from critic_models.training.heads.train import train_judge as train
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.guard.options import configuration_errors

    tests = dict(_named(each) for each in test or [])
    policy = None
    how: TextTraining | ProbeTraining
    if kind == "probe":
        with output.loading(out.name):
            policy, how = _probe(
                model,
                policy_id,
                layers,
                prompt_format,
                max_tokens=read_tokens,
                pair_weight=pair_weight,
                seed=seed,
                device=device,
            )
    else:
        if model or layers or prompt_format:
            raise ConfigurationError("--model, --layers and --prompt-format belong to a probe; say --kind probe")
        with configuration_errors():
            grams = NgramConfig(
                words=(1, 2) if words else None, chars=(3, 5) if chars else None, buckets=buckets, prompt=read_prompt
            ) if words or chars else None  # fmt: skip
        if not (grams or encoder or length):
            raise ConfigurationError("nothing to read: give --words, --chars, --encoder or --length")
        how = TextTraining(
            ngrams=grams, encoder=tuple(encoder or ()), length=length, pair_weight=pair_weight, seed=seed
        )
    with output.loading(out.name):
        head, facts = train(
            data,
            training=JudgeTraining(how=how, held_out=held_out, flag_at_most=flag_at_most, seed=seed),
            policy=policy,
            tests=tests,
            harmless=harmless,
            name=out.name,
        )
    facts |= {"licence": licence, "attribution": attribution, "command": shlex.join(["inferenceguard", *sys.argv[1:]])}
    head.save_pretrained(out)
    card = write_card(facts, out)
    if json:
        output.write_json(facts)
    else:
        output.notes.print(f"judge saved in [bold]{out}[/]; its card is {card}", highlight=False)


def _named(given: str) -> tuple[str, str]:
    from ig_plugins.errors import ConfigurationError

    name, _, file = given.partition("=")
    if not name or not file:
        raise ConfigurationError(f"--test is {given!r}; give NAME=FILE")
    return name, file


def _probe(
    model: str | None,
    policy_id: str | None,
    layers: str | None,
    prompt_format: str | None,
    *,
    max_tokens: int,
    pair_weight: float,
    seed: int,
    device: str | None,
) -> tuple[tuple[Any, Any], ProbeTraining]:
    """The policy with its tokenizer, and the probe's settings."""
    from critic_models.training.heads.probe import ProbeTraining
    from ig_plugins import presets
    from ig_plugins.errors import ConfigurationError
    from ig_plugins.guard.checks import check_options
    from ig_plugins.guard.policies import load_checkpoint, pick_device
    from ig_plugins.presets import Checkpoint

    if model is None:
        raise ConfigurationError("a probe reads a policy's hidden states: say which policy with --model")
    wanted = _layers(layers)
    check_options(model, {}, prompt_format=prompt_format)
    chosen = presets.preset(model) if presets.known(model) else None
    checkpoint = chosen.policy if chosen else Checkpoint(source=model, licence="")
    policy = load_checkpoint(checkpoint, None, {}, {"device": pick_device(device)})
    return (policy.engine.body.model, policy.tokenizer), ProbeTraining(
        policy_id=policy_id or checkpoint.source,
        layers=wanted,
        template=_template(policy.tokenizer, prompt_format or (chosen.prompt_format if chosen else "auto")),
        max_tokens=max_tokens,
        pair_weight=pair_weight,
        seed=seed,
    )


def _layers(given: str | None) -> tuple[int, ...]:
    from ig_plugins.errors import ConfigurationError

    try:
        return tuple(int(part) for part in given.split(",")) if given else ()
    except ValueError as error:
        raise ConfigurationError(f"--layers is {given!r}; give numbers separated by commas, such as 12,16") from error


def _template(tokenizer: Any, prompt_format: str) -> str:
    """How a guard with this format writes a prompt before the policy's answer, as a probe's template."""
    from critic_models.judges.heads.probe import ALONE, CHAT
    from critic_models.judges.score import TEXT
    from ig_plugins.chat import prompt_format as make_format

    return {"chat_template": CHAT, "beaver": TEXT, "plain": ALONE}[make_format(prompt_format, tokenizer).name]
