"""A decoding step on an accelerator against the floor that its memory bandwidth sets.

A step of few lanes reads every weight once and little else, so that no decoder can take less than the bytes it has to
read over the bandwidth, which is measured first.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ig_plugins.engine import TreeModel
from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.contenders import Record, generate, search_tree
from ig_plugins.research.bench.run import environment
from ig_plugins.research.bench.shape import Shape

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def run_device(
    case: Case | None = None,
    *,
    shape: Shape | None = None,
    device: str = "cuda",
    dtype: str = "bfloat16",
    repeats: int = 3,
    probe: int = 2**31,
) -> dict[str, Any]:
    """Measure the bandwidth, then decoding steps and whole answers. Wall-clock; the device should be otherwise idle.

    Args:
        case: The search; its layers, width and vocabulary are not read.
        shape: The model.
        device: As torch names it.
        dtype: One of ``DTYPES``.
        repeats: Rounds, after one that is not counted.
        probe: Bytes to read when the bandwidth is measured.

    Returns:
        The bandwidth (bytes a second); the floor of a step of the tree and of one lane (seconds); medians of the
        tree's step, of a step of a tree of one lane, of a whole guarded answer and of `generate` of one; and how many
        times the floor, and the unguarded answer, these are.
    """
    case, shape = case or Case(prompt=512, candidates=64, beams=16, new=128), shape or Shape()
    place = torch.device(device)
    bandwidth = measured_bandwidth(place, bytes_read=probe, repeats=repeats)
    model = shape.model(device=place, dtype=DTYPES[dtype], positions=case.prompt + case.new)
    tree = TreeModel.attach(model)
    case = replace(case, vocabulary=shape.vocabulary)
    single = replace(case, candidates=1, beams=1)
    clock = _clock(place)

    def answer(of: Case) -> tuple[float, float]:
        """Seconds of a whole answer, and of a step at its median block."""
        record, start = Record(), clock()
        search_tree(tree, of, record=record, clock=clock)
        return clock() - start, statistics.median(record.blocks) / of.block

    def plain() -> float:
        start = clock()
        generate(model, case, sequences=1)
        return clock() - start

    rounds = [(answer(case), answer(single), plain()) for _ in range(repeats + 1)][1:]
    whole, step = (statistics.median(each[0][part] for each in rounds) for part in (0, 1))
    alone = statistics.median(each[1][1] for each in rounds)
    unguarded = statistics.median(each[2] for each in rounds)
    floors = {name: step_bytes(model, of) / bandwidth for name, of in (("tree", case), ("single", single))}
    return {
        "case": {"prompt": case.prompt, "candidates": case.candidates, "beams": case.beams, "new": case.new},
        "shape": vars(shape),
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        "dtype": dtype,
        "path": tree.backend,
        "graphs": tree.recorder is not None and tree.recorder.trusted,
        "bandwidth": bandwidth,
        "floor": floors,
        "step": {"tree": step, "single": alone},
        "answer": {"tree": whole, "generate_1": unguarded},
        "ratios": {
            "step/floor": step / floors["tree"],
            "single step/floor": alone / floors["single"],
            "tree/generate_1": whole / unguarded,
        },
        "environment": environment(),
    }


@torch.inference_mode()
def measured_bandwidth(device: torch.device, *, bytes_read: int, repeats: int) -> float:
    """Bytes a second at which a large matrix is read by a product with a vector; the best of the rounds."""
    clock, width = _clock(device), 4096
    matrix = torch.ones(max(1, bytes_read // (2 * width)), width, dtype=torch.bfloat16, device=device)
    vector = torch.ones(width, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(repeats + 2):
        start = clock()
        matrix @ vector
        best = min(best, clock() - start)
    return matrix.nbytes / best


def step_bytes(model: PreTrainedModel, case: Case) -> float:
    """What a step must read: every weight that multiplies, and the keys and values of the tree's tokens once.

    Half of the answer is counted as committed, once a prompt, and half a block a lane: the mean, if the beams agree.
    """
    weights: int = sum(each.weight.nbytes for each in model.modules() if isinstance(each, nn.Linear))
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token: int = 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.dtype.itemsize
    return weights + token * case.prompts * (case.prompt + case.new / 2 + case.candidates * case.block / 2)


def _clock(device: torch.device) -> Callable[[], float]:
    """The wall clock, after the device has done all it was given."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
