"""Guarded answers a second of a small policy with a probe for a judge, by the prompts of a batch.

The weights are random, so the answers say nothing; what is timed is everything that requests go through. The probe is
on the last layer, whose states the search has in hand, and there is no reward model: as the presets of small models.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from critic_models.critic import tokenizer_hash
from critic_models.judges.heads import Probe, ProbeConfig
from critic_models.judges.heads.probe import first_layers, known_state
from ig_plugins.chat import prompt_format
from ig_plugins.engine import TreeModel
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.components import Components
from ig_plugins.guard.options import Options
from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.guarded import GENEROUS, word_prompts, word_tokenizer
from ig_plugins.search import Policy


def probed_answers(
    model: PreTrainedModel, tree: TreeModel, case: Case, *, batches: Sequence[int], clock: Callable[[], float]
) -> dict[int, dict[str, Any]]:
    """Time one batch of each size, after one that is not counted.

    Args:
        model: The policy, on its device.
        tree: The same, attached.
        case: The search, of one prompt.
        batches: Prompts of each batch.
        clock: The wall clock of that device.

    Returns:
        By prompts: seconds of the batch, answers a second, tokens sampled and answers that were blocked.
    """
    guard = probed_guard(model, tree, case)
    found = {}
    for prompts in batches:
        texts = word_prompts(replace(case, prompts=prompts))
        for round_ in range(2):
            start = clock()
            results = guard.generate(texts, seed=round_)
            seconds = clock() - start
        found[prompts] = {
            "seconds": seconds,
            "answers/s": prompts / seconds,
            "tokens": sum(each.usage.candidate_tokens for each in results),
            "blocked": sum(each.blocked for each in results),
        }
    return found


def probed_guard(model: PreTrainedModel, tree: TreeModel, case: Case) -> InferenceGuard:
    """A guard over a policy whose only judge is a random probe on its last layer."""
    vocabulary, layers = model.config.vocab_size, model.config.num_hidden_layers
    tokenizer = word_tokenizer(vocabulary)
    config = ProbeConfig(
        policy_id="random", tokenizer_hash=tokenizer_hash(tokenizer), hidden_size=model.config.hidden_size, layer=layers
    )
    tensors = {
        "weight": torch.randn(config.hidden_size, generator=torch.Generator().manual_seed(0)),
        "bias": torch.zeros(1),
        "check": known_state(first_layers(model, layers)),
    }
    parts = Components(
        policy=Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({vocabulary - 1})),
        prompt_format=prompt_format("plain", tokenizer),
        costs={"probe": Probe(config, tensors, policy=(model, tokenizer))},
        budgets=(GENEROUS,),
        names={"model": "random"},
    )
    return InferenceGuard(parts, Options(search=case.search()))
