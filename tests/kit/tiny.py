"""Guards over real, tiny, random models: a Llama policy and Safe-RLHF score models on the same byte tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from critic_models.judges import Judge, ScoreJudge, as_judge
from critic_models.safety import SafetyBudget
from critic_models.score_models import ScoreModel
from ig_plugins.chat import prompt_format
from ig_plugins.engine import TreeModel
from ig_plugins.guard import Components, InferenceGuard, Options
from ig_plugins.search import Policy, SearchConfig
from tests.kit.tokenizer import byte_tokenizer

SEARCH = {"candidates": 6, "beams": 2, "block_tokens": 5, "max_new_tokens": 20, "seed": 0}


def tiny_config(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> LlamaConfig:
    """Two layers, 32 wide."""
    return LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **changes,
        }
    )


def tiny_llama(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, sharpness: float = 60.0) -> LlamaForCausalLM:
    """A random policy that prefers printable text and ends now and then; higher sharpness is less random."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(tiny_config(tokenizer)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness / 10)
    return model


def tiny_scores(
    tokenizer: PreTrainedTokenizerFast, kind: str, *, seed: int = 1, scale: float = 3.0, bias: float = 0.0
) -> ScoreJudge:
    """A random score model; scale and bias say how far its scores spread, and around what."""
    torch.manual_seed(seed)
    model = ScoreModel.build(tiny_config(tokenizer), score_type=kind).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.score_head.weight, std=scale / 32**0.5)
        model.score_head.bias.fill_(bias)
    return ScoreJudge(model, tokenizer, name=kind)


def tiny_guard(
    *,
    costs: Mapping[str, Any] | None = None,
    reward: Any = "reward",
    budgets: Sequence[SafetyBudget] | None = None,
    critic: Any = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    search: Mapping[str, Any] | None = None,
    **options: Any,
) -> InferenceGuard:
    """A guard over random weights; by default one cost model and one reward model, both on the policy's tokens.

    Args:
        costs: Judges or callables by name.
        reward: A judge, a callable, None, or the default score model.
        budgets: One a cost model; by default cumulative, 10.0.
        critic: Foresees, or None.
        tokenizer: By default bytes.
        search: Settings over ``SEARCH``.
        **options: Further options of the guard.
    """
    tokenizer = tokenizer or byte_tokenizer()
    given = costs or {"cost": tiny_scores(tokenizer, "cost")}
    judges: dict[str, Judge] = {
        name: each if isinstance(each, Judge) else as_judge(each, kind="cost", name=name)
        for name, each in given.items()
    }
    if reward == "reward":
        reward = tiny_scores(tokenizer, "reward", seed=2)
    policy = Policy(
        tree=TreeModel.attach(tiny_llama(tokenizer)),
        tokenizer=tokenizer,
        stop_ids=frozenset({tokenizer.eos_token_id}),
    )
    parts = Components(
        policy=policy,
        prompt_format=prompt_format("beaver", tokenizer),
        costs=judges,
        budgets=tuple(budgets or [SafetyBudget(limit=10.0)] * len(judges)),
        reward=None if reward is None else as_judge(reward, kind="reward"),
        critic=critic,
        names={"model": "tiny"},
    )
    return InferenceGuard(parts, Options(search=SearchConfig(**{**SEARCH, **(search or {})})).updated(**options))


def save_tiny(folder: Path) -> dict[str, str]:
    """Writes a policy, a cost and a reward model as checkpoints; returns their folders by name."""
    tokenizer = byte_tokenizer()
    parts = {
        "policy": tiny_llama(tokenizer),
        "cost": tiny_scores(tokenizer, "cost").model,
        "reward": tiny_scores(tokenizer, "reward", seed=2).model,
    }
    for name, model in parts.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in parts}
