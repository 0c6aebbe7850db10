"""`make device`: what only a machine with a GPU can show, in one JSON file, on a machine without network.

Stages are kept as they end, so that a run which was cut goes on from there: the tests marked ``gpu``; decoding steps
of a 7B-shaped model against the measured bandwidth, with graphs and without; whole guarded answers with judges of the
same size beside one unguarded answer. ``--toy`` rehearses all of it on a CPU in a minute.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

NEEDS = {
    "torch": "2.6", "transformers": "5.20", "tokenizers": "0.22", "pydantic": "2.7.4", "typer": "0.15", "rich": "13",
    "jsonschema-rs": "0.60", "llguidance": "1.9", "safetensors": "0.4", "huggingface_hub": "1.0", "jinja2": "3.1.6",
    "filelock": "3.12", "pytest": "8", "pytest-asyncio": "1.0", "pytest-socket": "0.7", "pytest-timeout": "2.3",
    "hypothesis": "6.100",
}  # fmt: skip


TESTS = [
    "tests/ig_plugins/engine/test_on_device.py",
    "tests/ig_plugins/engine/test_cuda_graphs.py",
    "tests/ig_plugins/guard/test_on_device.py",
]
MARGIN = 32  # tokens of the prompt's format
PROBED_SECONDS = 15.0  # for the batches of a size of search


def main() -> int:
    """Run what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/device.json"))
    parser.add_argument("--toy", action="store_true", help="a toy shape on the CPU: a rehearsal, no figures")
    parser.add_argument("--stages", default="", help="a regular expression: only stages whose names it finds")
    parser.add_argument("--seconds", type=float, default=480, help="no stage starts after so many")
    options = parser.parse_args()
    if missing := _missing():
        print("This machine lacks: " + ", ".join(missing))
        print("Carry their wheels: `make device-wheels` downloads them for Python 3.12 into .whl.")
        return 2
    started = time.monotonic()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name, stage in _stages(toy=options.toy, log=options.out.with_suffix(".tests.txt")).items():
        done = name in found and "error" not in found[name]
        if done or not re.search(options.stages, name):
            continue
        if time.monotonic() - started > options.seconds:
            print(f"{name}: no time left; run again to go on")
            continue
        begun = time.monotonic()
        try:
            found[name] = stage()
        except Exception as error:  # the other stages shall still be measured
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        found[name]["stage_seconds"] = round(time.monotonic() - begun, 1)
        options.out.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(found[name])[:600], flush=True)
    return int(any("error" in each for each in found.values()))


def _missing() -> list[str]:
    from packaging.version import Version

    missing = []
    for name, least in NEEDS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if Version(version) < Version(least):
            missing.append(f"{name}>={least} (has {version})")
    return missing


def _stages(*, toy: bool, log: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """By name, in the order of what matters most."""
    from ig_plugins.research.bench import Case, DeviceBench, Shape
    from ig_plugins.research.bench.probed import probed_answers
    from ig_plugins.research.bench.run import environment

    smollm2_shape = Shape(layers=30, hidden=576, feed_forward=1536, heads=9, key_heads=3, vocabulary=49152)
    shape = Shape(layers=2, hidden=32, feed_forward=48, heads=4, key_heads=2, vocabulary=61) if toy else Shape()
    sizes = {"prompt": 12, "new": 8, "block": 4} if toy else {"prompt": 512, "new": 128, "block": 32}
    device, probe = ("cpu", 2**20) if toy else ("cuda", 2**31)
    made: list[DeviceBench] = []

    def bench() -> DeviceBench:
        if not made:
            made.append(
                DeviceBench(
                    shape=shape,
                    device=device,
                    dtype="bfloat16",
                    positions=sizes["prompt"] + sizes["new"] + MARGIN,
                    probe=probe,
                    repeats=3,
                )
            )
        return made[0]

    def case(candidates: int) -> Case:
        return Case(candidates=candidates, beams=max(1, candidates // 4), **sizes)

    def plain() -> dict[str, Any]:
        """`generate` of one and of many, the second time."""
        seconds: dict[int, float] = {}
        peaks: dict[int, int | None] = {}
        for count in (1, 16, 64):

            def run(count: int = count) -> None:
                seconds[count] = bench().plain(case(count), sequences=count)

            run()
            peaks[count] = bench().peak(run)
        return {"seconds": seconds, "peak": peaks}

    small: list[DeviceBench] = []

    def smollm2() -> DeviceBench:
        if not small:
            made.clear()  # the large model's memory
            like = shape if toy else smollm2_shape
            most = sizes["prompt"] + sizes["new"] + MARGIN
            small.append(
                DeviceBench(shape=like, device=device, dtype="float32", positions=most, probe=probe, repeats=2)
            )
        return small[0]

    def little(candidates: int) -> Case:
        new = 8 if toy else 64
        return replace(case(candidates), prompt=12 if toy else 128, new=new, block=new // 4, top_k=50)

    def probed(candidates: int) -> dict[str, Any]:
        """Batches by a guard with a probe; a size is left out where the one before says that it takes too long."""
        of, found, each, left = smollm2(), {}, 0.0, PROBED_SECONDS
        for prompts in (1, 2) if toy else (1, 8, 32):
            if each * 8 > left:
                break
            started = time.monotonic()
            found.update(probed_answers(of.model, of.tree, little(candidates), batches=[prompts], clock=of.clock))
            each = time.monotonic() - started
            left -= each
        return found

    return {
        "environment": lambda: {**environment(), "device": bench().name, "bandwidth": bench().bandwidth},
        "tests": lambda: _tests(device, log),
        "N=16": lambda: bench().searched(case(16)),
        "N=64": lambda: bench().searched(case(64)),
        "guarded N=16": lambda: bench().guarded(case(16), critic=False),
        "guarded N=16, critic": lambda: bench().guarded(case(16), critic=True),
        "generate": plain,
        "guarded N=64": lambda: bench().guarded(case(64), critic=False),
        "guarded N=64, critic": lambda: bench().guarded(case(64), critic=True),
        "N=16 without graphs": lambda: bench().searched(case(16), graphs=False),
        "N=64 without graphs": lambda: bench().searched(case(64), graphs=False),
        "SmolLM2-shaped N=16": lambda: smollm2().searched(little(16)),
        "SmolLM2-shaped N=64": lambda: smollm2().searched(little(64)),
        "SmolLM2-shaped answers N=16": lambda: probed(16),
        "SmolLM2-shaped answers N=64": lambda: probed(64),
    }


def _tests(device: str, log: Path) -> dict[str, Any]:
    """The tests marked ``gpu``, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command,
        env={**os.environ, "INFERENCEGUARD_DEVICE": device},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    log.write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {"exit": done.returncode, "summary": done.stdout.strip().splitlines()[-1:], "failed": lines}


if __name__ == "__main__":
    sys.exit(main())
