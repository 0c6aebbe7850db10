"""Training of score models: token targets, labels of whole responses, or preference pairs.

The same code makes the bundled reward and cost models and trains on real data, such as labelled dialogues or pairs of a
chosen and a rejected answer.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.score_models import ScoreModel
from critic_models.training.policy import Optimisers, TrainingPlan, batches, pad

Objective = Literal["regress", "classify", "prefer"]


class ScoreExample(NamedTuple):
    """One tokenised text with what its tokens should score.

    Attributes:
        ids: T token ids, prompt and response.
        targets: T targets: scores to regress on, or 1 and 0 to classify; what stands at weight 0 means nothing.
        weights: T weights of the tokens in the loss, 0 for the prompt.
    """

    ids: list[int]
    targets: list[float]
    weights: list[float]


class PreferenceExample(NamedTuple):
    """Two tokenised texts with the same prompt: the end score of the first should be the higher one."""

    ids: list[int]
    worse: list[int]


_Kind = TypeVar("_Kind", ScoreExample, PreferenceExample)


def labelled(
    prompt: str, response: str, label: float, tokenizer: PreTrainedTokenizerBase, *, prefixes: float = 0.1
) -> ScoreExample:
    """An example from a label of the whole response.

    Args:
        prompt: Text in the format that the score model will meet when it is used.
        response: The response; the tokenizer's end token is appended.
        label: The score or class of the response.
        tokenizer: The model's tokenizer.
        prefixes: Weight of every earlier token of the response, which learns the same label, so that the score of a
            beginning becomes the expected score of the whole; the end counts 1. 0 trains the end alone.
    """
    head = tokenizer(prompt).input_ids
    tail = [*tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    weights = [0.0] * len(head) + [prefixes] * (len(tail) - 1) + [1.0]
    return ScoreExample(head + tail, [label] * len(weights), weights)


def preferred(prompt: str, better: str, worse: str, tokenizer: PreTrainedTokenizerBase) -> PreferenceExample:
    """An example from a preference between two finished responses."""
    head = tokenizer(prompt).input_ids

    def whole(response: str) -> list[int]:
        return [*head, *tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]

    return PreferenceExample(whole(better), whole(worse))


def epochs(examples: Sequence[_Kind]) -> Callable[[random.Random], _Kind]:
    """Draws a fixed set of examples without replacement, epoch after epoch."""
    if not examples:
        raise ConfigurationError("there are no examples to train on; give at least one")
    left: list[_Kind] = []

    def draw(rng: random.Random) -> _Kind:
        if not left:
            left.extend(rng.sample(list(examples), len(examples)))
        return left.pop()

    return draw


def train_score_model(
    model: ScoreModel,
    draw: Callable[[random.Random], ScoreExample] | Callable[[random.Random], PreferenceExample],
    plan: TrainingPlan,
    *,
    objective: Objective,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> ScoreModel:
    """Trains a score model.

    Args:
        model: Changed in place; its body is best a pretrained one.
        draw: Makes one `ScoreExample` (``regress``, ``classify``) or one `PreferenceExample` (``prefer``).
        plan: Length and rates.
        objective: ``regress``: Huber loss against the token targets. ``classify``: cross-entropy of the token scores
            as log-odds. ``prefer``: -log σ(better - worse) on end scores (Bradley-Terry).
        seed: Decides the order of examples.
        on_step: Told the step and its loss.

    Raises:
        ConfigurationError: The loss is no longer finite; nothing useful can come of such a training.
    """
    optimisers = Optimisers(model, plan)
    model.train()
    stream = batches(
        cast(Callable[[random.Random], ScoreExample], draw), tokens=plan.batch_tokens, rng=random.Random(seed)
    )
    for step in range(plan.steps):
        batch = next(stream)
        loss = _loss(model, batch, objective)
        loss.backward()  # type: ignore[no-untyped-call]
        optimisers.step()
        value = loss.item()
        if not math.isfinite(value):
            raise ConfigurationError(f"the loss is {value} at step {step}; lower the learning rate or look at the data")
        if on_step:
            on_step(step, value)
    model.eval()
    return model


def _loss(model: ScoreModel, batch: list[ScoreExample] | list[PreferenceExample], objective: Objective) -> Tensor:
    wanted = PreferenceExample if objective == "prefer" else ScoreExample
    if not isinstance(batch[0], wanted):
        raise ConfigurationError(
            f"objective {objective!r} was given a {type(batch[0]).__name__}; it learns from {wanted.__name__}s"
        )
    if objective == "prefer":
        return _preference_loss(model, cast(list[PreferenceExample], batch))
    return _token_loss(model, cast(list[ScoreExample], batch), objective)


def _token_loss(model: ScoreModel, batch: list[ScoreExample], objective: Objective) -> Tensor:
    ids = pad([example.ids for example in batch], dtype=torch.long)  # (B, T)
    weights = pad([example.weights for example in batch], dtype=torch.float32)
    targets = pad([example.targets for example in batch], dtype=torch.float32)
    scores = model.score_tokens(ids, torch.ones_like(ids))  # causal and right-padded: padding changes nothing before it
    if objective == "regress":
        losses = nn.functional.smooth_l1_loss(scores, targets, reduction="none")
    else:
        losses = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def _preference_loss(model: ScoreModel, batch: list[PreferenceExample]) -> Tensor:
    rows = [example.ids for example in batch] + [example.worse for example in batch]
    ids = pad(rows, dtype=torch.long)
    mask = pad([[1] * len(row) for row in rows], dtype=torch.long)
    better, worse = model.end_scores(ids, mask).chunk(2)
    return -nn.functional.logsigmoid(better - worse).mean()
