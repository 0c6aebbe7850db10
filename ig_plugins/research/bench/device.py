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
from ig_plugins.research.bench.guarded import guarded_answers
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
        See ``DeviceBench.searched``, and the bandwidth (bytes a second) and environment beside it.
    """
    case = case or Case(prompt=512, candidates=64, beams=16, new=128)
    bench = DeviceBench(
        shape=shape, device=device, dtype=dtype, positions=case.prompt + case.new, repeats=repeats, probe=probe
    )
    return {**bench.searched(case), "environment": environment()}


class DeviceBench:
    """A random model on a device, and what is measured on it.

    Args:
        shape: The model.
        device: As torch names it.
        dtype: One of ``DTYPES``.
        positions: Tokens of the longest text.
        repeats: Rounds, after one that is not counted; medians are reported.
        probe: Bytes to read when the bandwidth is measured.

    Attributes:
        bandwidth: Bytes a second.
    """

    def __init__(
        self, *, shape: Shape | None, device: str, dtype: str, positions: int, repeats: int = 3, probe: int = 2**31
    ) -> None:
        self.shape, self.device, self.dtype, self.repeats = shape or Shape(), torch.device(device), dtype, repeats
        self.clock = _clock(self.device)
        self.bandwidth = measured_bandwidth(self.device, bytes_read=probe, repeats=repeats)
        self.model = self.shape.model(device=self.device, dtype=DTYPES[dtype], positions=positions)
        self.tree = TreeModel.attach(self.model)
        self._recorder = self.tree.recorder

    def searched(self, case: Case, *, graphs: bool = True) -> dict[str, Any]:
        """The engine's search with a coin for a judge, beside `generate` of one and the floor.

        Args:
            case: Its vocabulary is not read.
            graphs: Whether steps may be recorded where the device has graphs.

        Returns:
            The floor of a step of the tree and of one lane (seconds); medians of the tree's step, of a step of a tree
            of one lane, of a whole search and of `generate` of one; how many times the floor, and the unguarded
            answer, these are; bytes at the peak.
        """
        case = replace(case, vocabulary=self.shape.vocabulary)
        single = replace(case, candidates=1, beams=1)
        self.tree.recorder = self._recorder if graphs else None
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "tree": lambda: self._answer(case),
            "single": lambda: self._answer(single),
            "generate_1": lambda: (self.plain(case, sequences=1), 0.0),
        }
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(self.repeats + 1)][1:]

        def median(name: str, part: int) -> float:
            return statistics.median(each[name][part] for each in rounds)

        whole, step, alone = median("tree", 0), median("tree", 1), median("single", 1)
        floors = {
            name: step_bytes(self.model, of) / self.bandwidth for name, of in (("tree", case), ("single", single))
        }
        peaks = {name: self.peak(run) for name, run in contenders.items()}
        recorder = self.tree.recorder
        return {
            "case": {"prompt": case.prompt, "candidates": case.candidates, "beams": case.beams, "new": case.new,
                     "block": case.block},
            "shape": vars(self.shape),
            "device": self.name,
            "dtype": self.dtype,
            "path": self.tree.backend,
            "graphs": recorder is not None and recorder.trusted,
            "bandwidth": self.bandwidth,
            "floor": floors,
            "step": {"tree": step, "single": alone},
            "answer": {"tree": whole, "single": median("single", 0), "generate_1": median("generate_1", 0)},
            "peak": peaks,
            "ratios": {
                "step/floor": step / floors["tree"],
                "single step/floor": alone / floors["single"],
                "tree/generate_1": whole / median("generate_1", 0),
            },
        }  # fmt: skip

    def guarded(self, case: Case, *, critic: bool) -> dict[str, Any]:
        """A whole guarded answer with judges of the model's own size; see `guarded_answers`."""
        self.tree.recorder = self._recorder
        case = replace(case, vocabulary=self.shape.vocabulary)
        found: dict[str, Any] = {}

        def run() -> None:
            found.update(
                guarded_answers(
                    self.model, case, shape=self.shape, clock=self.clock, repeats=self.repeats, critic=critic
                )
            )

        return {"peak": self.peak(run), **found}

    def plain(self, case: Case, *, sequences: int) -> float:
        """Seconds of `generate` of so many answers."""
        start = self.clock()
        generate(self.model, replace(case, vocabulary=self.shape.vocabulary), sequences=sequences)
        return self.clock() - start

    def peak(self, run: Callable[[], object]) -> int | None:
        """Most bytes that were allocated meanwhile, the models included; None where the device does not count."""
        if self.device.type != "cuda":
            run()
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        return torch.cuda.max_memory_allocated(self.device)

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def _answer(self, case: Case) -> tuple[float, float]:
        """Seconds of a whole answer, and of a step at its median block."""
        record, start = Record(), self.clock()
        search_tree(self.tree, case, record=record, clock=self.clock)
        return self.clock() - start, statistics.median(record.blocks) / case.block


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
