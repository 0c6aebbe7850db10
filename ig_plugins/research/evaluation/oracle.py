"""The best that is possible: the highest reward among all answers that a grammar allows and the cost models accept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.methods.candidate_scorer import Candidate, CandidateScorer
from ig_plugins.research.methods.context import Context
from ig_plugins.search import Capacity

CHUNK = 512  # answers scored together
BLOCK = 8  # tokens a level of their tree

Ids = tuple[int, ...]


def oracle_rewards(
    context: Context,
    prompts: Sequence[Prompt],
    answers: Callable[[str], Sequence[str]],
    *,
    on_prompt: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Per prompt the best reward under the constraint.

    It is the most that grammatical answers can earn: a policy that never says some of them cannot reach it, and one
    that slips out of the grammar may pass it.

    Args:
        context: Judges and budgets.
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
            for candidate in score_all(context, prompt.text, answers(prompt.text))
            if candidate.reward is not None and candidate.safe
        ]
        if allowed:
            best[index] = max(allowed)
        on_prompt()
    return best


def score_all(context: Context, prompt: str, texts: Sequence[str]) -> list[Candidate]:
    """What cost and reward models say of whole answers; those longer than an answer may be are left out.

    Answers of one grammar begin alike, so they are read as a tree: what several of them share is read once.
    """
    stop = min(context.policy.stop_ids)
    encoded = ((*context.policy.tokenizer.encode(text, add_special_tokens=False), stop) for text in texts)
    ids = sorted({each for each in encoded if len(each) <= context.search.max_new_tokens})
    found: list[Candidate] = []
    for at in range(0, len(ids), CHUNK):
        found += _read(context, prompt, ids[at : at + CHUNK])
    return found


def _read(context: Context, prompt: str, answers: Sequence[Ids]) -> list[Candidate]:
    """Reads answers level by level, a block of tokens a level."""
    longest = max(map(len, answers))
    capacity = Capacity(lanes=len(answers), block=BLOCK, max_new=longest)
    scorer = CandidateScorer(context, capacity=capacity)
    scorer.add_rows([context.request(prompt, seed=0)])
    whole, done = set(answers), []
    for depth in range(0, longest, BLOCK):
        lanes = sorted({answer[: depth + BLOCK] for answer in answers if len(answer) > depth})
        at = {beam.ids: index for index, beam in enumerate(scorer.beams[0])}
        beams = torch.tensor([[at[lane[:depth]] for lane in lanes]])
        lengths = torch.tensor([[len(lane) - depth for lane in lanes]])
        tokens = torch.zeros(1, len(lanes), int(lengths.max()), dtype=torch.long)
        for index, lane in enumerate(lanes):
            tokens[0, index, : len(lane) - depth] = torch.tensor(lane[depth:])
        ends = torch.tensor([[lane in whole for lane in lanes]])
        (read,) = scorer.judge(beams, tokens, lengths, ends)
        done += [each for each in read.values() if each.ids in whole]
        scorer.advance(torch.tensor([[lane for lane, each in read.items() if each.ids not in whole]], dtype=torch.long))
    return done
