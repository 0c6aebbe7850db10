"""The self-test at attach: does a backend give this model the states of its plain full forward?

A wrong mask or position does not fail, it only answers a little differently, so every backend has to show on the model
at hand that it is exact: ragged prompts, lanes that end at different times, a fed block, a selection. And again at
every length that the configuration declares, because models may compute otherwise beyond it.

Beyond some, a text's own earlier states become others: the frequencies of longrope and dynamic NTK depend on the
longest position of a forward, so that no cache of keys gives what the full forward gives. Such a model is followed up
to there, where nothing has changed yet.
"""

from typing import Any

import torch
from torch import Tensor

from critic_models.lengths import context_of
from ig_plugins.engine.backends.base import Sizes, TreeBackend
from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.numerics import difference, ordinary_ids, tolerance
from ig_plugins.engine.lengths import rope_thresholds, windows_of
from ig_plugins.engine.tree import TokenTree
from ig_plugins.errors import ModelLoadError

PROMPTS = [5, 3]  # tokens of the walk's prompts: a short one beside a longer one
LONGEST = 9  # tokens of the walk's longest text
SAME = 1e-2  # of a cosine or sine at the same position; half precision rounds the largest by 4e-3


class BackendUnfitError(Exception):
    """A backend that runs a model, but not exactly."""


@torch.inference_mode()
def prove(body: Body, backend: type[TreeBackend], *, allowed: float | None = None) -> tuple[int, str] | None:
    """Walk small trees and compare with the plain full forward.

    Args:
        body: The model.
        backend: How to follow the tree.
        allowed: The largest difference; by default what the dtype's rounding may do.

    Returns:
        The longest text that is followed exactly, and the name of this length in the configuration; None for all that
        the model can read.

    Raises:
        BackendUnfitError: The backend's states differ.
        ModelLoadError: The plain full forward itself is not finite.
        Exception: Whatever the model raises on inputs that it cannot take.
    """
    allowed = tolerance(body.model.dtype) if allowed is None else allowed
    _walk(body, backend, PROMPTS, allowed)
    context = context_of(body.config)
    for window in windows_of(body.config):
        if context is None or window + LONGEST <= context:
            _walk(body, backend, [window + 2, PROMPTS[1]], allowed)
    limit = _limit(body, backend, allowed)
    end = limit[0] if limit else context
    if end is not None and end > LONGEST and _takes_positions(body):
        try:
            _walk(_Later(body, end - LONGEST), backend, PROMPTS, allowed)
        except BackendUnfitError as error:
            raise BackendUnfitError(f"of a text of {end} tokens {error}") from error
    return limit


def _limit(body: Body, backend: type[TreeBackend], allowed: float) -> tuple[int, str] | None:
    """The first declared length beyond which states are not those of the full forward any more, with its name."""
    context = context_of(body.config)
    for length, name in rope_thresholds(body.config):
        if not _takes_positions(body) or _rotates_otherwise(body, length):
            return length, name
        if context is not None and length + LONGEST > context:
            continue
        try:  # the longer text crosses while the other one is still short
            _walk(_Later(body, max(length - PROMPTS[0] - 1, 0)), backend, PROMPTS, allowed)
        except BackendUnfitError:
            return length, name
    return None


def _takes_positions(body: Body) -> bool:
    return "position_ids" in body.accepts


def _rotates_otherwise(body: Body, length: int) -> bool:
    """Whether rotary embeddings of the same positions differ where a forward holds a position beyond a length.

    Seen at the tables themselves, because rounding in half precision can hide it in the states.
    """
    seen: list[Any] = []
    rotary = [module for module in body.body.modules() if "rotary" in type(module).__name__.lower()]
    hooks = [module.register_forward_hook(lambda module, args, tables: seen.append(tables)) for module in rotary]
    # One less than the length: at the length itself dynamic frequencies stay what a longer text has made of them.
    near = torch.arange(max(length - 4, 0), length - 1, device=body.device)
    beyond = torch.cat([near[:-1], near.new_tensor([2 * length])])
    ids = ordinary_ids(len(near), body.model.get_input_embeddings().weight.shape[0], torch.Generator().manual_seed(0))
    try:
        for positions in (beyond, near):  # the short one last: dynamic frequencies go back to where they were
            body.reference(torch.tensor([ids], device=body.device), positions.unsqueeze(0))
    finally:
        for hook in hooks:
            hook.remove()
    half = len(seen) // 2
    return any(_tables_differ(*both) for both in zip(seen[:half], seen[half:], strict=True))


def _tables_differ(first: Any, second: Any) -> bool:
    """Whether rotary tables, tensors (..., N, D) or tuples of them, differ at any position but the last."""
    if isinstance(first, Tensor):
        return not bool(((first - second)[..., :-1, :].abs() <= SAME).all())
    return any(_tables_differ(*both) for both in zip(first, second, strict=True))


class _Later(Body):
    """A body whose texts begin at a later position, so that a length can be walked without a text as long."""

    def __init__(self, body: Body, start: int) -> None:
        self.__dict__.update(vars(body))
        self._start = start

    def run(
        self, ids: Tensor, *, keep: tuple[Tensor, Tensor] | None, cache: Any = None, **inputs: Any
    ) -> tuple[Tensor, Any, Any]:
        """See `Body`; positions that are not given follow those in the cache."""
        positions = inputs.get("position_ids")
        if positions is None:
            before = 0 if cache is None else cache.get_seq_length()
            positions = torch.arange(before, before + ids.shape[1], device=ids.device).expand(len(ids), -1)
        return super().run(ids, keep=keep, cache=cache, **{**inputs, "position_ids": positions + self._start})

    def reference(
        self, ids: Tensor, positions: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See `Body`."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
        return super().reference(ids, positions + self._start, last=last)


def _walk(body: Body, backend: type[TreeBackend], lengths: list[int], allowed: float) -> None:
    """Two blocks with a selection between them; every surviving text is compared at its end."""
    random = torch.Generator().manual_seed(0)
    vocabulary = body.model.get_input_embeddings().weight.shape[0]

    def ids(count: int) -> list[int]:
        return ordinary_ids(count, vocabulary, random)

    B = len(lengths)
    texts = [[ids(length)] for length in lengths]
    tree, follower = TokenTree(lengths), backend(body, Sizes(lanes=3, block=3, max_new=6))
    hidden, logits = follower.prefill([row[0] for row in texts])
    _compare(body, texts, [(hidden[b], _at(logits, b)) for b in range(B)], allowed)

    for parents, steps, chosen in (
        ([0, 0, 0], ([1, 1, 1], [1, 0, 1]), [2, 1]),
        ([1, 0, 0], ([2, 1, 0], [0, 1, 1]), [0, 1, 2]),
    ):
        lanes = torch.tensor([parents] * B)
        tree.fork(lanes)
        follower.fork(lanes)
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
        follower.select(tree, selection)
        tree.select(selection)
        texts = [[row[lane] for lane in chosen] for row in texts]
        _compare(body, texts, [states[row, lane] for row in range(B) for lane in chosen], allowed)


def _at(logits: Tensor | None, index: int) -> Tensor | None:
    return None if logits is None else logits[index]


def _compare(
    body: Body, texts: list[list[list[int]]], states: list[tuple[Tensor, Tensor | None]], allowed: float
) -> None:
    for text, found in zip([text for row in texts for text in row], states, strict=True):
        expected = body.reference(torch.tensor([text], device=body.device), last=True)
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
                raise BackendUnfitError(
                    f"its {what} differ from the full forward's by {error:.1e} (allowed {allowed:.0e})"
                )
