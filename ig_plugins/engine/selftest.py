"""The self-test at attach: does a path give this model the states of its plain full forward?

A wrong mask or position does not fail, it only answers a little differently, so every path has to show on the model
at hand that it is exact: ragged prompts, lanes that end at different times, a fed block, a selection, and a prompt
longer than the attention window if the model has one.
"""

import torch
from torch import Tensor

from ig_plugins.engine.body import Body
from ig_plugins.engine.exact import difference, tolerance
from ig_plugins.engine.path import Path, Sizes
from ig_plugins.errors import ModelLoadError
from ig_plugins.tree import TokenTree


class PathUnfitError(Exception):
    """A path that runs a model, but not exactly."""


@torch.inference_mode()
def prove(
    body: Body, path: type[Path], *, window: int | None, context: int | None, allowed: float | None = None
) -> None:
    """Walk a small tree and compare with the plain full forward.

    Args:
        body: The model.
        path: How to follow the tree.
        window: The model's shortest attention window, if any.
        context: Positions that the model has, if limited.
        allowed: The largest difference; by default what the dtype's rounding may do.

    Raises:
        PathUnfitError: The path's states differ.
        ModelLoadError: The plain full forward itself is not finite.
        Exception: Whatever the model raises on inputs that it cannot take.
    """
    allowed = tolerance(body.model.dtype) if allowed is None else allowed
    _walk(body, path, [5, 3], allowed)
    if window is not None and (context is None or window + 8 <= context):
        _walk(body, path, [window + 2], allowed)


def _walk(body: Body, path: type[Path], lengths: list[int], allowed: float) -> None:
    """Two blocks with a selection between them; every surviving text is compared at its end."""
    random = torch.Generator().manual_seed(0)
    vocabulary = body.model.get_input_embeddings().weight.shape[0]

    def ids(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=random).tolist()

    B = len(lengths)
    texts = [[ids(length)] for length in lengths]
    tree, follower = TokenTree(lengths), path(body, Sizes(lanes=3, block=3, max_new=6))
    hidden, logits = follower.plant([row[0] for row in texts])
    _compare(body, texts, [(hidden[b], _at(logits, b)) for b in range(B)], allowed)

    for parents, steps, chosen in (
        ([0, 0, 0], ([1, 1, 1], [1, 0, 1]), [2, 1]),
        ([1, 0, 0], ([2, 1, 0], [0, 1, 1]), [0, 1, 2]),
    ):
        lanes = torch.tensor([parents] * B)
        tree.branch(lanes)
        follower.branch(lanes)
        texts = [[list(row[parent]) for parent in parents] for row in texts]
        states: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        for counts in steps:
            packing = tree.pack(torch.tensor([counts] * B))
            tokens = torch.tensor(ids(len(packing)))
            last = packing.last
            hidden, logits = follower.forward(tree, tokens, packing, last)
            tree.grow(packing)
            for token, row, lane in zip(tokens.tolist(), packing.rows.tolist(), packing.lanes.tolist(), strict=True):
                texts[row][lane].append(token)
            for i, at in enumerate(last.tolist()):
                states[int(packing.rows[at]), int(packing.lanes[at])] = hidden[at], _at(logits, i)
        selection = torch.tensor([chosen] * B)
        follower.commit(tree, selection)
        tree.commit(selection)
        texts = [[row[lane] for lane in chosen] for row in texts]
        _compare(body, texts, [states[row, lane] for row in range(B) for lane in chosen], allowed)


def _at(logits: Tensor | None, index: int) -> Tensor | None:
    return None if logits is None else logits[index]


def _compare(
    body: Body, texts: list[list[list[int]]], states: list[tuple[Tensor, Tensor | None]], allowed: float
) -> None:
    for text, found in zip([text for row in texts for text in row], states, strict=True):
        expected = body.reference(torch.tensor([text], device=body.device))
        for what, mine, plain in zip(("hidden states", "logits"), found, expected, strict=True):
            if mine is None or plain is None:
                continue
            wanted = plain[0, -1].float()
            if not bool(wanted.isfinite().all()):
                raise ModelLoadError(
                    f"{type(body.model).__name__} in {body.model.dtype} gives {what} that are not finite. Check the "
                    "checkpoint, or load it in float32 or bfloat16."
                )
            error = difference(mine, wanted)
            if not error <= allowed:
                raise PathUnfitError(
                    f"its {what} differ from the full forward's by {error:.1e} (allowed {allowed:.0e})"
                )
