"""Builds the bundled models from nothing: ``python -m critic_models.bundled.build --out DIR``.

A base model reads the whole corpus; each policy is tuned on from it with its own habits, each score model from its
body with its own labels. The same seed and thread count give the same models.
"""

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from critic_models.bundled.annotators import cost_example, reward_example
from critic_models.bundled.tokenizer import world_tokenizer
from critic_models.bundled.world import corpus
from critic_models.bundled.world.behaviour import ALPACA, BEAVER, Behaviour
from critic_models.safe_rlhf import ASSISTANT, BEGIN
from critic_models.score_models import ScoreModel
from critic_models.training.policy import Example, TrainingPlan, train_policy
from critic_models.training.scores import train_score_model

BASE = TrainingPlan(steps=1100, learning_rate=4e-3, matrix_rate=2e-2)
POLICY = TrainingPlan(steps=600, learning_rate=8e-4, matrix_rate=4e-3)
SCORE = TrainingPlan(steps=450, learning_rate=2e-3, matrix_rate=1e-2)
_DECLARATIVE = {"base": 0.4, "policy": 0.15}
_PROMPT_WEIGHT = 0.15

Stage = Literal["policy", "scores"]
OnStep = Callable[[int, float], None]


def body_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """A Llama of one million parameters. The embedding is tied: a noun that can be read can be written."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def text_example(text: str, tokenizer: PreTrainedTokenizerBase) -> Example:
    """A training text whose answers weigh 1 and whose prompts weigh little; other text weighs 1 throughout."""
    ids: list[int] = tokenizer(text).input_ids
    if not text.startswith(BEGIN):
        return ids, [1.0] * len(ids)
    mark = tokenizer(ASSISTANT, add_special_tokens=False).input_ids
    weights, answering = [], False
    for index, token in enumerate(ids):
        weights.append(1.0 if answering else _PROMPT_WEIGHT)
        answering = (answering or ids[index + 1 - len(mark) : index + 1] == mark) and token != tokenizer.eos_token_id
    return ids, weights


def _draw(
    rng: random.Random, *, habits: tuple[Behaviour, ...], declarative: float, tokenizer: PreTrainedTokenizerBase
) -> Example:
    plain = rng.random() < declarative
    text = corpus.declarative(rng) if plain else corpus.dialogue(rng.choice(habits), rng)
    return text_example(text, tokenizer)


def build_base(
    tokenizer: PreTrainedTokenizerBase, plan: TrainingPlan, *, seed: int, on_step: OnStep
) -> PreTrainedModel:
    """The common ancestor of all four models."""
    torch.manual_seed(seed)
    draw = partial(_draw, habits=(ALPACA, BEAVER), declarative=_DECLARATIVE["base"], tokenizer=tokenizer)
    return train_policy(LlamaForCausalLM(body_config(tokenizer)), draw, plan, seed=seed, on_step=on_step)


def build_policy(
    base: PreTrainedModel, habits: Behaviour, plan: TrainingPlan, *, tokenizer: PreTrainedTokenizerBase, seed: int,
    on_step: OnStep,
) -> PreTrainedModel:  # fmt: skip
    """A policy: the base model tuned to the habits of one kind of assistant."""
    model = LlamaForCausalLM(base.config)
    model.load_state_dict(base.state_dict())
    draw = partial(_draw, habits=(habits,), declarative=_DECLARATIVE["policy"], tokenizer=tokenizer)
    return train_policy(model, draw, plan, seed=seed, on_step=on_step)


def build_score(
    base: PreTrainedModel, kind: Literal["reward", "cost"], plan: TrainingPlan, *, tokenizer: PreTrainedTokenizerBase,
    seed: int, on_step: OnStep,
) -> ScoreModel:  # fmt: skip
    """A reward or a cost model: the base model's body with a score head, trained on annotators' labels."""
    torch.manual_seed(seed)
    model = ScoreModel.build(base.config, score_type=kind)
    model.model.load_state_dict(base.model.state_dict())
    torch.nn.init.normal_(model.score_head.weight, std=0.02)
    make = reward_example if kind == "reward" else cost_example
    draw = partial(make, tokenizer)
    return train_score_model(model, draw, plan, objective="regress", seed=seed, on_step=on_step)


def store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a model in half precision that loads as float32: half the size on disk, full speed on a CPU."""
    model.half()
    if isinstance(model, ScoreModel):
        model.score_head.float()
        model.normalizer.float()
    model.save_pretrained(folder)
    model.float()
    model.config.dtype = "float32"
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(
    out: Path, *, seed: int = 0, only: Stage | None = None, shorten: int = 1, console: Console | None = None
) -> list[Path]:
    """Builds all bundled models, or the policies or the score models only.

    Args:
        out: Gets one folder per model, and ``base``, their ancestor.
        seed: Decides everything.
        only: Which part. A base model that is in ``out`` already is then used again.
        shorten: Divides the number of training steps, for a quick look.
        console: Where progress is shown; nowhere if None.

    Returns:
        The folders written.
    """
    plans = {name: replace(plan, steps=max(1, plan.steps // shorten)) for name, plan in
             {"base": BASE, "policy": POLICY, "score": SCORE}.items()}  # fmt: skip
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(quiet=True)) as progress:

        def shown(name: str, plan: TrainingPlan) -> OnStep:
            task = progress.add_task(name, total=plan.steps, loss=float("nan"))
            milestone = max(1, plan.steps // 10)

            def on_step(step: int, loss: float) -> None:
                progress.update(task, completed=step + 1, loss=loss)
                if not progress.console.is_terminal and (step + 1) % milestone == 0:  # a log shows no live bar
                    progress.console.print(f"{name}: step {step + 1} of {plan.steps}, loss {loss:.3f}")

            return on_step

        if only and (out / "base" / "config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(out / "base")
            base = LlamaForCausalLM.from_pretrained(out / "base")
        else:
            tokenizer = world_tokenizer(seed=seed)
            base = build_base(tokenizer, plans["base"], seed=seed, on_step=shown("base", plans["base"]))
            store(base, tokenizer, out / "base")
        written: list[Path] = []
        made: PreTrainedModel
        if only != "scores":
            for name, habits in (("tiny-alpaca", ALPACA), ("tiny-beaver", BEAVER)):
                on_step = shown(name, plans["policy"])
                made = build_policy(base, habits, plans["policy"], tokenizer=tokenizer, seed=seed + 1, on_step=on_step)
                store(made, tokenizer, out / name)
                written.append(out / name)
        if only != "policy":
            kinds: tuple[Literal["reward", "cost"], ...] = ("reward", "cost")
            for kind in kinds:
                on_step = shown(f"tiny-{kind}", plans["score"])
                made = build_score(base, kind, plans["score"], tokenizer=tokenizer, seed=seed + 2, on_step=on_step)
                store(made, tokenizer, out / f"tiny-{kind}")
                written.append(out / f"tiny-{kind}")
    return written


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m critic_models.bundled.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("policy", "scores"), help="build a part, from OUT/base if it is there")
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="the result depends on it in the last digits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    shorten = 40 if options.quick else 1
    for folder in build(options.out, seed=options.seed, only=options.only, shorten=shorten, console=console):
        console.print(f"wrote {folder}")


if __name__ == "__main__":
    main()
