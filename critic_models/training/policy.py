"""A small trainer of causal language models: batches of similar length, Muon for matrices, AdamW for the rest."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from critic_models.errors import ConfigurationError

Example = tuple[list[int], list[float]]
"""Token ids and, of the same length, the weight of predicting each of them."""
_Item = TypeVar("_Item", bound=tuple)  # type: ignore[type-arg]  # any tuple that begins with token ids


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast a model learns.

    Attributes:
        steps: Optimiser steps.
        batch_tokens: Tokens of one batch, padding included.
        learning_rate: Peak rate of AdamW; it warms up over 5 % of the steps and falls to a fiftieth on a cosine.
        matrix_rate: Peak rate of Muon for the hidden matrices, on the same schedule.
        weight_decay: Decoupled weight decay.
    """

    steps: int
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    matrix_rate: float = 1e-2
    weight_decay: float = 0.01


class Optimisers:
    """Muon for two-dimensional hidden weights, AdamW for embeddings, norms and heads, one schedule for both.

    Raises:
        ConfigurationError: This torch has no Muon; it came with 2.9, and everything but this training runs with 2.6.
    """

    def __init__(self, model: nn.Module, plan: TrainingPlan) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigurationError(
                "training a policy or score model needs torch 2.9 or newer, for its optimiser Muon, and this is torch "
                f"{torch.__version__}; run: pip install 'torch>=2.9'"
            )
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers." in name]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.97), weight_decay=plan.weight_decay)
        ]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=plan.weight_decay)
            self._optimisers.append(muon)
        warmup = max(1, plan.steps // 20)

        def rate(step: int) -> float:
            progress = min(1.0, step / max(1, plan.steps))
            return min(1.0, (step + 1) / warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, rate) for optimiser in self._optimisers]
        self._parameters = list(model.parameters())

    def step(self) -> None:
        """Clips, steps, advances the schedule and clears the gradients."""
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)


def batches(
    draw: Callable[[random.Random], _Item], *, tokens: int, rng: random.Random, pool: int = 256
) -> Iterator[list[_Item]]:
    """Endless batches of examples of similar length, at most ``tokens`` tokens each with their padding."""
    while True:
        examples = sorted((draw(rng) for _ in range(pool)), key=lambda example: len(example[0]))
        groups: list[list[_Item]] = [[]]
        for example in examples:
            if groups[-1] and len(example[0]) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from groups


def pad(rows: Sequence[Sequence[float]], *, dtype: torch.dtype) -> Tensor:
    """Right-pads rows with zeros: (B, T)."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True)


def train_policy(
    model: PreTrainedModel,
    draw: Callable[[random.Random], Example],
    plan: TrainingPlan,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> PreTrainedModel:
    """Trains a causal language model on weighted next-token prediction.

    Args:
        model: Changed in place.
        draw: Makes one example; the weight at index i is that of predicting token i.
        plan: Length and rates.
        seed: Decides all examples.
        on_step: Told the step and its loss.
    """
    optimisers = Optimisers(model, plan)
    stream = batches(draw, tokens=plan.batch_tokens, rng=random.Random(seed))
    model.train()
    for step in range(plan.steps):
        batch = next(stream)
        ids = pad([example[0] for example in batch], dtype=torch.long)  # (B, T)
        weights = pad([example[1] for example in batch], dtype=torch.float32)
        # Padding stands on the right of a causal model and weighs nothing, so that no mask is needed.
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (B, T-1, V)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        aim = weights[:, 1:].flatten()
        loss = (losses * aim).sum() / aim.sum().clamp(min=1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimisers.step()
        if on_step:
            on_step(step, loss.item())
    return model.eval()
