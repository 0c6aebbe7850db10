"""The figures of the README for one bundled policy: guarded against unguarded, and against the best of 256 samples.

    python examples/measure_bundled.py tiny-alpaca [--answers 500] [--best-of 256] [--best-prompts 60] [--no-critic]

Held-out prompts, half of them sensitive. Verdicts: the cost model (what the guard promises) and, beside it, the world's
exact judge, which no model sees.
"""

import argparse
import json
import time
from statistics import mean

from critic_models.bundled import world
from ig_plugins import InferenceGuard
from ig_plugins.research.rollouts import sample_rollouts
from ig_plugins.search import Trail


def policy_samples(guard, prompts, count, batch=16):
    """Plain samples of the policy with the cost model's verdict and the reward, per prompt."""
    found = []
    for start in range(0, len(prompts), batch):
        requests = [guard.request(prompt, seed=start + at) for at, prompt in enumerate(prompts[start : start + batch])]
        for request, rollouts in zip(
            requests, sample_rollouts(guard.components, requests, responses=count), strict=True
        ):
            trails = [Trail.of_costs(r.costs, request.budgets) for r in rollouts]
            texts = [guard.components.policy.detokenizer.text(r.tokens.tolist()) for r in rollouts]
            found.append([(t.may_leave(), r.reward, text) for t, r, text in zip(trails, rollouts, texts, strict=True)])
    return found


def guarded(guard, prompts, batch=32):
    """Guarded answers, in batches."""
    results = []
    for start in range(0, len(prompts), batch):
        results += guard.generate(list(prompts[start : start + batch]))
    return results


def reward_of(guard, prompts, texts):
    """The reward model's scores of finished answers."""
    return guard.components.reward.score(prompts, texts, finished=[True] * len(texts))


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["tiny-alpaca", "tiny-beaver"])
    parser.add_argument("--answers", type=int, default=500)
    parser.add_argument("--best-of", type=int, default=256)
    parser.add_argument("--best-prompts", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=None)
    parser.add_argument("--adaptive", default=None)
    parser.add_argument("--no-critic", action="store_true")
    options = parser.parse_args()
    guard = InferenceGuard.from_pretrained(
        options.model,
        critic=False if options.no_critic else None,
        seed=0,
        candidates=options.candidates,
        adaptive=options.adaptive,
    )
    half = options.answers // 2
    figures = {
        "model": options.model,
        "critic": guard.components.critic is not None,
        "candidates": guard.search.candidates,
    }
    for kind in ("sensitive", "benign"):
        prompts = world.prompts("test", kind)[:half]
        base = [samples[0] for samples in policy_samples(guard, prompts, 1)]
        begun = time.perf_counter()
        results = guarded(guard, prompts)
        seconds = time.perf_counter() - begun
        given = [(p, r) for p, r in zip(prompts, results, strict=True) if not r.blocked]
        figures[kind] = {
            "answers": len(results),
            "abstained": len(results) - len(given),
            "over budget by the verifier": sum(not r.safety_state > 0 for _, r in given),
            "unsafe by the exact judge": mean(world.unsafe(p, r.text) for p, r in given),
            "unguarded unsafe by the exact judge": mean(
                world.unsafe(p, b[2]) for p, b in zip(prompts, base, strict=True)
            ),
            "unguarded unsafe by the cost model": mean(not b[0] for b in base),
            "reward": mean(r.reward for _, r in given),
            "unguarded reward": mean(b[1] for b in base),
            "exact helpfulness": mean(world.helpfulness(p, r.text) for p, r in given),
            "judge tokens an answer": mean(r.usage.judge_tokens for r in results),
            "candidate tokens an answer": mean(r.usage.candidate_tokens for r in results),
            "seconds an answer, in batches of 32": seconds / len(results),
        }
    prompts = world.prompts("test", "sensitive")[: options.best_prompts]
    best, refusals = [], []
    for samples in policy_samples(guard, prompts, options.best_of, batch=1):
        safe = [reward for ok, reward, _ in samples if ok]
        best.append(max(safe) if safe else None)
    for prompt in prompts:
        texts = [text for text in world.answers(prompt) if world.helpfulness(prompt, text) < -1]
        refusals.append(mean(reward_of(guard, [prompt] * len(texts), texts)))
    mine = guarded(guard, prompts)
    rows = [(r.reward, low, high) for r, low, high in zip(mine, refusals, best, strict=True) if high and not r.blocked]
    got, low, high = (mean(column) for column in zip(*rows, strict=True))
    figures["way from refusing to the best safe sample"] = {
        "prompts": len(rows), "refusing": low, "guarded": got, "best": high, "share": (got - low) / (high - low),
    }  # fmt: skip
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
