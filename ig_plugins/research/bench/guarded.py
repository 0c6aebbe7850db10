"""A whole guarded answer at the size of the 7B models: policy, cost model and reward model, beside `generate`.

All weights are random, so the answers say nothing; what is timed is everything that a request goes through. The judges
are Safe-RLHF score models as large as the policy, which read every block of every lane on its token tree: the dearest
way to guard. With ``critic`` a latent critic foresees blocks, and the judges read the survivors and what is released.
"""

import statistics
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from critic_models.critic import CriticConfig, CriticCost, LatentCritic
from critic_models.judges import ScoreJudge
from critic_models.safety import SafetyBudget
from critic_models.score_models import ScoreModel
from ig_plugins.chat import prompt_format
from ig_plugins.engine import TreeModel
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.components import Components
from ig_plugins.guard.options import Options
from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.shape import Shape, dtype_of_new_tensors
from ig_plugins.search import Policy

GENEROUS = SafetyBudget(limit=1e6, discount=1.0)  # random scores say nothing: all candidates pass
COST = CriticCost(accounting="cumulative", lowest=1.0, highest=2e6, scales=(1e6,))


def guarded_answers(
    model: PreTrainedModel, case: Case, *, shape: Shape, clock: Callable[[], float], repeats: int, critic: bool = False
) -> dict[str, Any]:
    """Time whole answers of one guard, after one that is not counted.

    Args:
        model: The policy, on its device.
        case: The search.
        shape: Of the judges, which are made here on the policy's device and in its dtype.
        clock: The wall clock of that device.
        repeats: Answers.
        critic: Whether a latent critic foresees.

    Returns:
        The median of the seconds of an answer, tokens that were judged and tokens sampled.
    """
    guard = random_guard(model, case, shape=shape, critic=critic)
    (prompt,) = word_prompts(case)
    seconds, results = [], []
    for round_ in range(repeats + 1):
        start = clock()
        results.append(guard.generate(prompt, seed=round_))
        seconds.append(clock() - start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "tokens": len(results[-1].token_ids),
        "blocked": sum(result.blocked for result in results),
        "usage": results[-1].usage.model_dump(),
    }


def random_guard(model: PreTrainedModel, case: Case, *, shape: Shape, critic: bool) -> InferenceGuard:
    """A guard over a policy and two random score models of a shape."""
    tokenizer = word_tokenizer(shape.vocabulary)
    positions = model.config.max_position_embeddings
    with model.device, dtype_of_new_tensors(model.dtype):
        judges = {
            kind: ScoreModel.build(shape.config(positions=positions), score_type=kind).eval()
            for kind in ("cost", "reward")
        }
    for judge in judges.values():
        judge.score_head.float()
    parts = Components(
        policy=Policy(tree=TreeModel.attach(model), tokenizer=tokenizer, stop_ids=frozenset({shape.vocabulary - 1})),
        prompt_format=prompt_format("plain", tokenizer),
        costs={"cost": ScoreJudge(judges["cost"], tokenizer)},
        budgets=(GENEROUS,),
        reward=ScoreJudge(judges["reward"], tokenizer),
        critic=_random_critic(model) if critic else None,
        names={"model": "random", "policy": "random"},
    )
    return InferenceGuard(parts, Options(search=case.search()))


def _random_critic(model: PreTrainedModel) -> LatentCritic:
    """As large as the bundled ones, and reading as much."""
    config = CriticConfig(hidden_size=model.config.hidden_size, costs=(COST,), recalls=True)
    return LatentCritic(config).to(model.device).eval()


def word_prompts(case: Case) -> list[str]:
    """The prompts of a case, written for `word_tokenizer`."""
    return [" ".join(f"<{token}>" for token in ids) for ids in case.prompt_ids().tolist()]


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """A word a token, ``<0> <1> ...``; the last one ends an answer."""
    words = {f"<{token}>": token for token in range(vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    last = f"<{vocabulary - 1}>"
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<0>", bos_token="<1>", eos_token=last, pad_token="<2>"
    )
    return tokenizer
