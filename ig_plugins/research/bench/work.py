"""What a decoder makes a model do, counted: the figures that do not depend on the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass
class Work:
    """Forwards of the body, tokens in them, rows of logits, and the FLOPs of all linear layers (attention excluded)."""

    forwards: int = 0
    tokens: int = 0
    logits: int = 0
    flops: int = 0


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[Work]:
    """Count while the context lasts."""
    body, head, work = model.get_decoder(), model.get_output_embeddings(), Work()
    per_token = sum(2 * each.weight.numel() for each in body.modules() if isinstance(each, nn.Linear))

    def on_body(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        tokens = (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel()
        work.forwards += 1
        work.tokens += tokens
        work.flops += per_token * tokens

    def on_head(module: nn.Linear, args: tuple[Tensor, ...]) -> None:
        rows = args[0].numel() // args[0].shape[-1]
        work.logits += rows
        work.flops += 2 * module.weight.numel() * rows

    hooks = [body.register_forward_pre_hook(on_body, with_kwargs=True), head.register_forward_pre_hook(on_head)]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()
