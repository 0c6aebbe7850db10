"""Guards and contexts of methods without weights worth naming: over a scripted policy, or over random tiny models."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from critic_models.judges import ScoreJudge, as_judge
from critic_models.safety import SafetyBudget
from critic_models.score_models import ScoreModel
from ig_plugins.chat import prompt_format
from ig_plugins.engine import TreeModel
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.components import Components
from ig_plugins.guard.options import Options
from ig_plugins.research.methods import Context
from ig_plugins.search import Policy, SearchConfig
from tests.kit.scripted import ScriptedModel
from tests.kit.tokenizer import byte_tokenizer

WORST = SafetyBudget(limit=0.0, accounting="worst")


def scripted_context(
    answers: Mapping[str, float] | Callable[[str], Mapping[str, float]],
    *,
    cost: Callable[[str, str], float],
    reward: Callable[[str, str], float] | None,
    budget: SafetyBudget = WORST,
    search: Mapping[str, Any] | None = None,
    hidden: Callable[..., Any] | None = None,
    **options: Any,
) -> Context:
    """A context over a scripted policy.

    Args:
        answers: What the policy says, with which probability.
        cost: (prompt, response so far) -> cost.
        reward: The same for the reward, or None.
        budget: Of the cost.
        search: Changes of the search's settings.
        hidden: The policy's hidden states; see `ScriptedModel`.
        **options: Of the context.
    """
    tokenizer = byte_tokenizer()
    policy = Policy(
        tree=ScriptedModel.from_answers(tokenizer, answers, hidden=hidden),
        tokenizer=tokenizer,
        stop_ids=frozenset({tokenizer.eos_token_id}),
    )
    parts = Components(
        policy=policy,
        prompt_format=prompt_format("plain", tokenizer),
        costs={"cost": as_judge(_each(cost), name="cost", kind="cost")},
        budgets=(budget,),
        reward=None if reward is None else as_judge(_each(reward), name="reward", kind="reward"),
        names={"model": "scripted", "policy": "scripted"},
    )
    settings = {"candidates": 16, "beams": 4, "block_tokens": 8, "max_new_tokens": 32, **(search or {})}
    return Context(InferenceGuard(parts, Options(search=SearchConfig(**settings))), **options)


def tiny_context(*, seed: int = 0, budget: SafetyBudget | None = None, search: Mapping[str, Any] | None = None,
               **options: Any) -> Context:  # fmt: skip
    """A context over random tiny Llamas: a policy, and a cost and a reward model that follow its tree."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.25,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        cost, reward = (ScoreModel.build(config, score_type=kind).eval() for kind in ("cost", "reward"))
    parts = Components(
        policy=Policy(tree=TreeModel.attach(model), tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id})),
        prompt_format=prompt_format("plain", tokenizer),
        costs={"cost": ScoreJudge(cost, tokenizer)},
        budgets=(budget or SafetyBudget(limit=4.0, discount=0.99),),
        reward=ScoreJudge(reward, tokenizer),
        names={"model": "tiny", "policy": "tiny"},
    )
    settings = {"candidates": 8, "beams": 2, "block_tokens": 4, "max_new_tokens": 12, **(search or {})}
    return Context(InferenceGuard(parts, Options(search=SearchConfig(**settings))), **options)


def _each(score: Callable[[str, str], float]) -> Callable[[list[str], list[str]], list[float]]:
    return lambda prompts, responses: [float(score(p, r)) for p, r in zip(prompts, responses, strict=True)]
