"""What it costs to stream soon: lag, time to the first verified text, and reward, by ``max_lag``.

    python examples/measure_streams.py tiny-alpaca --prompts 60

A smaller ``max_lag`` settles beams earlier: text leaves sooner, and the search has fewer beams to choose among. Seeds
and prompts are the same for all settings, so differences of rewards are paired.
"""

import argparse
from statistics import mean, median, stdev

import torch

from critic_models.bundled import world
from ig_plugins import InferenceGuard

SETTINGS = {"0 (soonest)": 0, "1": 1, "2": 2, "4 (default)": 4, "whole answer": 10_000}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["tiny-alpaca", "tiny-beaver"])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--no-critic", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    guard = InferenceGuard.from_pretrained(options.model, critic=False if options.no_critic else None)
    prompts = world.prompts("test", "sensitive")[: options.prompts]
    rewards: dict[str, list[float]] = {}
    print("max_lag        blocked  reward   minus default (95 %)   lag, tokens  first text, share of the time")
    rows = []
    for name, lag in SETTINGS.items():
        found = []
        for seed, prompt in enumerate(prompts):
            last = list(guard.stream(prompt, seed=seed, max_lag=lag))[-1].result
            found.append(last)
        rewards[name] = [result.reward or 0.0 for result in found]
        first = [(result.first_text_seconds or result.seconds) / result.seconds for result in found]
        rows.append((name, sum(r.blocked for r in found), median(r.lag or 0 for r in found), median(first)))
    for name, blocked, lag, first in rows:
        gaps = [mine - usual for mine, usual in zip(rewards[name], rewards["4 (default)"], strict=True)]
        half = 1.96 * stdev(gaps) / len(gaps) ** 0.5
        worth = f"{mean(rewards[name]):6.3f}   {mean(gaps):+.3f} ± {half:.3f}"
        print(f"{name:14} {blocked:7}  {worth}        {lag:11.0f}  {first:.0%}")


if __name__ == "__main__":
    main()
