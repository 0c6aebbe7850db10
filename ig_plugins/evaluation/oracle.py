"""The best that is possible: the highest reward among all answers that a grammar allows and the cost models accept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ig_plugins.evaluation.prompts import Prompt
from ig_plugins.methods.bench import Bench
from ig_plugins.methods.panel import Candidate, Panel
from ig_plugins.search import Capacity

CHUNK = 128  # answers scored together


def oracle_rewards(
    bench: Bench,
    prompts: Sequence[Prompt],
    answers: Callable[[str], Sequence[str]],
    *,
    on_prompt: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Per prompt the best reward under the constraint.

    The policy gives every answer of its grammar some probability, so a search without limits of time would find it.

    Args:
        bench: Judges and budgets.
        prompts: The prompts.
        answers: Every answer that the world's grammar allows to a prompt.
        on_prompt: Called after every prompt.

    Returns:
        By index of the prompt; prompts without any acceptable answer are missing.
    """
    best = {}
    for index, prompt in enumerate(prompts):
        allowed = [
            candidate.reward
            for candidate in score_all(bench, prompt.text, answers(prompt.text))
            if candidate.reward is not None and candidate.safe(bench.budgets)
        ]
        if allowed:
            best[index] = max(allowed)
        on_prompt()
    return best


def score_all(bench: Bench, prompt: str, texts: Sequence[str]) -> list[Candidate]:
    """What cost and reward models say of whole answers; those longer than an answer may be are left out."""
    stop = min(bench.policy.stop_ids)
    encoded = [[*bench.policy.tokenizer.encode(text, add_special_tokens=False), stop] for text in texts]
    ids = sorted((e for e in encoded if len(e) <= bench.search.max_new_tokens), key=len)
    found = []
    for at in range(0, len(ids), CHUNK):
        chunk = ids[at : at + CHUNK]
        longest = max(map(len, chunk))
        tokens = torch.zeros(1, len(chunk), longest, dtype=torch.long)
        for lane, each in enumerate(chunk):
            tokens[0, lane, : len(each)] = torch.tensor(each)
        found += _judged(bench, prompt, tokens, torch.tensor([[len(each) for each in chunk]]))
    return found


def _judged(bench: Bench, prompt: str, tokens: Tensor, lengths: Tensor) -> list[Candidate]:
    lanes, longest = tokens.shape[1], tokens.shape[2]
    capacity = Capacity(lanes=lanes, block=longest, max_new=longest)
    panel = Panel(bench, bench.request(prompt, seed=0), capacity=capacity)
    beams = torch.zeros(1, lanes, dtype=torch.long)
    ends = torch.ones(1, lanes, dtype=torch.bool)
    return panel.judge([panel.start()] * lanes, tokens, lengths, ends, beams=beams)
