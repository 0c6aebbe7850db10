"""Real guards over scripted policies: everything but the weights is the product's own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from critic_models.judges import as_judge
from critic_models.safety import SafetyBudget
from ig_plugins.chat import prompt_format
from ig_plugins.guard import Components, InferenceGuard, Options
from ig_plugins.search import Policy, SearchConfig
from tests.kit.scripted import ScriptedModel
from tests.kit.tokenizer import byte_tokenizer

Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
MARKER = "UNSAFE"
"""What the default cost model calls unsafe."""


def versioned(guard: InferenceGuard, version: str = "1") -> InferenceGuard:
    """The same guard, whose scripted policy and functions say what they are, so that it can be certified."""
    for part in (guard.components.policy.tree, *guard.components.judges):
        vars(part)["version"] = version
    return guard


def cost_of_marker(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """1 for responses that hold the marker, else -1."""
    return [1.0 if MARKER in response else -1.0 for response in responses]


def length_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Longer is better."""
    return [float(len(response)) for response in responses]


def make_guard(
    answers: Mapping[str, float] | Callable[[str], Mapping[str, float]] | None = None,
    *,
    policy: Policy | None = None,
    cost: Score = cost_of_marker,
    reward: Score | None = length_reward,
    budget: SafetyBudget | None = None,
    chat: bool = False,
    search: Mapping[str, Any] | None = None,
    **options: Any,
) -> InferenceGuard:
    """A guard over a policy that gives whole texts with probabilities.

    Args:
        answers: Text to probability, or a function of the decoded prompt that gives it.
        policy: A policy instead of answers.
        cost: The cost model; at most the budget's limit (0) is safe.
        reward: The reward model, or None.
        budget: By default the worst score, limit 0.
        chat: A ChatML tokenizer that knows tools, instead of the beaver format.
        search: Settings; by default 8 candidates, 2 beams, blocks of 8 bytes, seed 0.
        **options: Further options of the guard.
    """
    if policy is None:
        tokenizer = byte_tokenizer(chat=chat)
        tree = ScriptedModel.from_answers(tokenizer, answers or {"Hello there.": 1.0}, context=8192)
        policy = Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))  # type: ignore[arg-type]
    parts = Components(
        policy=policy,
        prompt_format=prompt_format("chat_template" if chat else "beaver", policy.tokenizer),
        costs={"marker": as_judge(cost, kind="cost", name="marker")},
        budgets=(budget or SafetyBudget(limit=0.0, accounting="worst"),),
        reward=as_judge(reward, kind="reward", name="reward") if reward else None,
        names={"model": "scripted"},
    )
    settings = {"candidates": 8, "beams": 2, "block_tokens": 8, "max_new_tokens": 128, "seed": 0, **(search or {})}
    return InferenceGuard(parts, Options(search=SearchConfig(**settings)).updated(**options))
