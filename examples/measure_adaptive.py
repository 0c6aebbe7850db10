"""Adaptive search on the bundled world: time against one unguarded answer, reward and safety against the full search.

python examples/measure_adaptive.py tiny-alpaca [--prompts 100] [--kind benign] [--repeats 2] [--lanes 2 4 8]
"""

import argparse
import json

import torch

from critic_models.bundled import world
from ig_plugins import InferenceGuard
from ig_plugins.research.bench.adaptive import measure_adaptive


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["tiny-alpaca", "tiny-beaver"])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--kind", choices=["benign", "sensitive"], default="benign")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--lanes", type=int, nargs="*", default=[], help="narrow candidates to try, beside the default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    guard = InferenceGuard.from_pretrained(options.model)
    settings = {"full": {"adaptive": "off"}, "adaptive": {"adaptive": "on"}}
    for lanes in options.lanes:
        settings[f"adaptive, {lanes} lanes"] = {"adaptive": "on", "narrow_candidates": lanes}
    prompts = world.prompts("test", options.kind)[: options.prompts]
    figures = measure_adaptive(guard, prompts, settings=settings, unsafe=world.unsafe, repeats=options.repeats)
    print(json.dumps({"model": options.model, "kind": options.kind, "prompts": len(prompts), **figures}, indent=1))


if __name__ == "__main__":
    main()
