"""Sixteen callers of one guard at once, against the same calls one after another.

    python examples/measure_callers.py [tiny-alpaca] [--callers 16] [--repeats 3] [--adaptive on]

Threads, asyncio tasks, and LangChain's `batch` and `abatch` of the chat model.
"""

import argparse
import asyncio
import json

import torch

from critic_models.bundled import world
from ig_plugins import InferenceGuard
from ig_plugins.research.bench.callers import measure_callers, ways_to_ask
from langchain_inferenceguard import ChatInferenceGuard


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny-alpaca")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--adaptive", choices=["on", "off"], default="off")
    options = parser.parse_args()
    torch.set_num_threads(1)
    guard = InferenceGuard.from_pretrained(options.model, seed=0, adaptive=options.adaptive)
    chat = ChatInferenceGuard.from_guard(guard)
    several = {"max_concurrency": options.callers}
    ways = ways_to_ask(guard) | {
        "langchain batch": lambda prompts: [reply.content for reply in chat.batch(prompts, several)],
        "langchain abatch": lambda prompts: [reply.content for reply in asyncio.run(chat.abatch(prompts, several))],
    }
    half = options.callers // 2
    prompts = world.prompts("test", "benign")[:half] + world.prompts("test", "sensitive")[: options.callers - half]
    print(json.dumps(measure_callers(ways, prompts, repeats=options.repeats), indent=1))


if __name__ == "__main__":
    main()
