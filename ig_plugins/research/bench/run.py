"""Benchmarks that return plain dictionaries; the command line prints and plots them."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import transformers
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ig_plugins.engine import Sampler, TreeModel
from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.clock import interleaved, threads
from ig_plugins.research.bench.contenders import Record, contenders, search_tree
from ig_plugins.research.bench.work import Work, counted

ALL = ("tree", "generate_1", "generate_n", "floor")


def run(
    case: Case | None = None,
    *,
    repeats: int = 3,
    names: Sequence[str] = ALL,
    path: str = "auto",
    torch_threads: int = 1,
) -> dict[str, Any]:
    """Compare decoders on one case.

    Args:
        case: What to decode; the default is the project's standing one.
        repeats: Rounds; each runs every contender once, and medians are reported.
        names: Contenders, of ``tree``, ``generate_1``, ``generate_n`` and ``floor``.
        path: The engine's path.
        torch_threads: Threads of torch.

    Returns:
        The case; seconds by contender; ratios to the tree (how many times as long the other takes, and the tree to
        one answer); where the tree's time goes; forwards, tokens and FLOPs; bytes of keys and values; the environment.
    """
    case = case or Case()
    with threads(torch_threads):
        model = case.model()
        tree = TreeModel.attach(model, backend=path)  # type: ignore[arg-type]
        everyone = contenders(model, tree, case)
        works: dict[str, Work] = {}

        def counting(name: str) -> object:
            with counted(model) as works[name]:
                return everyone[name]()

        timings = interleaved({name: partial(counting, name) for name in names}, repeats=repeats)
        record = Record()
        search_tree(tree, case, record=record)
        measured_in = environment()
    seconds = {name: timing.summary() for name, timing in timings.items()}
    caches = {name: {"allocated": timings[name].result} for name in names if name.startswith("generate")}
    return {
        "case": asdict(case),
        "path": tree.backend,
        "seconds": seconds,
        "ratios": {clock: _ratios(seconds, clock) for clock in ("wall", "cpu")},
        "split": record.split,
        "blocks": record.blocks,
        "work": {name: asdict(work) for name, work in works.items()},
        "memory": {"tree": record.memory, **caches},
        "environment": measured_in,
    }


def _ratios(seconds: dict[str, Any], clock: str) -> dict[str, float]:
    """Every contender's time over the tree's; and the tree's over one answer's and the floor's, as the targets say."""
    if "tree" not in seconds:
        return {}
    tree = seconds["tree"][clock]
    ratios = {f"{name}/tree": seconds[name][clock] / tree for name in seconds if name != "tree"}
    return ratios | {f"tree/{name}": tree / seconds[name][clock] for name in ("generate_1", "floor") if name in seconds}


def block_times(case: Case | None = None, *, repeats: int = 3, path: str = "auto") -> dict[str, Any]:
    """Whether a block takes as long late in an answer as early: median processor seconds of each block."""
    case = case or Case(new=256)
    records = [Record() for _ in range(repeats)]
    with threads(1):
        tree = TreeModel.attach(case.model(), backend=path)  # type: ignore[arg-type]
        for record in records:
            search_tree(tree, case, record=record)
    blocks = [statistics.median(times) for times in zip(*(record.blocks for record in records), strict=True)]
    return {"case": asdict(case), "path": tree.backend, "blocks": blocks, "last/second": blocks[-1] / blocks[1]}


def sampling(*, lanes: int = 64, vocabulary: int = 32768, repeats: int = 5) -> dict[str, Any]:
    """Milliseconds of a step's sampling: transformers' warpers and multinomial beside ours."""
    logits = 3.0 * torch.randn(lanes, vocabulary, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(lanes, dtype=torch.float64)

    def theirs(*warpers: Any) -> torch.Tensor:
        scores = logits
        for warper in warpers:
            scores = warper(None, scores)
        return torch.multinomial(scores.softmax(dim=-1), 1)

    warm = TemperatureLogitsWarper(0.8)
    with threads(1):
        timings = interleaved(
            {
                "plain": lambda: Sampler(temperature=0.8).draw(logits, uniforms),
                "plain, transformers": lambda: theirs(warm),
                "top-k 50": lambda: Sampler(temperature=0.8, top_k=50).draw(logits, uniforms),
                "top-k 50, transformers": lambda: theirs(warm, TopKLogitsWarper(50)),
                "top-p 0.9": lambda: Sampler(temperature=0.8, top_p=0.9).draw(logits, uniforms),
                "top-p 0.9, transformers": lambda: theirs(warm, TopPLogitsWarper(0.9)),
            },
            repeats=repeats,
        )
    milliseconds = {name: 1e3 * statistics.median(timing.cpu) for name, timing in timings.items()}
    return {"lanes": lanes, "vocabulary": vocabulary, "milliseconds": milliseconds}


def run_tuned(case: Case | None = None, *, timeout: float = 7200.0, **options: Any) -> dict[str, Any]:
    """``run`` in a process whose allocator keeps large blocks.

    On glibc a cache grown by concatenation spends much of its time in page faults; a raised mmap threshold spares
    `generate` that, and hardly changes the tree, which does not grow anything by concatenation.

    Raises:
        RuntimeError: The process failed; the message ends with its last words.
    """
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**32 - 1), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}
    code = (
        "import json, sys; from ig_plugins.research.bench import Case, run; options = json.load(sys.stdin); "
        "case = Case(**options.pop('case')); json.dump(run(case, **options), sys.stdout)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"case": asdict(case or Case()), **options}),
        capture_output=True,
        text=True,
        env=environ,
        timeout=timeout,
    )
    if finished.returncode:
        raise RuntimeError(f"The benchmark with the tuned allocator failed: {finished.stderr.strip()[-500:]}")
    return json.loads(finished.stdout)  # type: ignore[no-any-return]


def environment() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "malloc": os.environ.get("MALLOC_MMAP_THRESHOLD_", "default"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
