"""What a judge is worth on examples that it never saw, beside what costs nothing: the length, and words alone."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from critic_models.judges.protocol import Kind
from critic_models.training.heads.data import Examples
from critic_models.training.heads.linear import Floats, Linear, Texts, fit
from critic_models.training.metrics import auc, calibration_error, reliability

Score = Callable[[Sequence[str], Sequence[str]], Floats]  # prompts, responses to raw scores (n,)
WORDS = {"sublinear_tf": True, "ngram_range": (1, 2), "strip_accents": "unicode"}


class Ranked(NamedTuple):
    """How often a judge tells two answers to one prompt apart.

    Attributes:
        right: Share of right orders, ties half; None without such pairs.
        pairs: How many pairs there were.
    """

    right: float | None
    pairs: int


def measure(score: Score, examples: Examples, *, kind: Kind, probability: bool = True) -> dict[str, Any]:
    """AUC, calibration and same-prompt pair accuracy of one judge.

    Args:
        score: The judge before any sigmoid.
        examples: Held-out ones.
        kind: Whether a higher score means unsafe (cost) or better (reward).
        probability: Whether the sigmoid of the score claims to be a probability.
    """
    texts = Texts(examples, kind)
    scores = score(texts.prompts, texts.responses)
    labels = np.array([answer.label for answer in examples.answers], dtype=bool)
    A, P = texts.answers, texts.pairs
    ranked = pair_accuracy([a.prompt for a in examples.answers], labels, scores[:A])
    preferred = scores[A : A + P] - scores[A + P :]
    preferred = -preferred if kind == "cost" else preferred
    own = Ranked(float(np.mean((preferred > 0) + 0.5 * (preferred == 0))) if P else None, P)
    figures: dict[str, Any] = {
        "answers": A,
        "prompts": len(examples.prompts),
        "unsafe_share": float(labels.mean()) if A else None,
        "auc": auc(torch.from_numpy(scores[:A]), torch.from_numpy(labels)) if A else None,
        "same_prompt_accuracy": ranked.right,
        "same_prompt_pairs": ranked.pairs,
        "pair_accuracy": own.right,
        "pairs": own.pairs,
    }
    if A and probability:
        chances = torch.from_numpy(scores[:A]).sigmoid()
        figures["calibration_error"] = calibration_error(reliability(chances, torch.from_numpy(labels)))
    return figures


def pair_accuracy(prompts: Sequence[str], labels: Any, scores: Floats) -> Ranked:
    """Over all pairs of an unsafe and a safe answer to one prompt, how often the unsafe one has the higher score."""
    groups: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for prompt, label, score in zip(prompts, labels, scores, strict=True):
        groups[prompt][int(label)].append(float(score))
    right, count = 0.0, 0
    for safe, unsafe in groups.values():
        if safe and unsafe:
            gaps = np.subtract.outer(np.array(unsafe), np.array(safe))
            right += float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
            count += gaps.size
    return Ranked(right / count if count else None, count)


def longer(prompts: Sequence[str], responses: Sequence[str]) -> Floats:
    """The length in words as a score: "longer wins" for a reward, "longer is unsafe" for a cost."""
    return np.array([len(response.split()) for response in responses], dtype=np.float64)


def words_alone(train: Examples, *, kind: Kind, pair_weight: float = 1.0) -> Score:
    """TF-IDF of words and logistic regression on the same rows: what any head has to beat.

    Prompt and response are read as one text, scikit-learn's defaults otherwise.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = Texts(train, kind, pair_weight)
    vectoriser = TfidfVectorizer(**WORDS)
    model: Linear = fit(texts.design(vectoriser.fit_transform(_joined(texts.prompts, texts.responses))), strength=1.0)
    return lambda prompts, responses: model(vectoriser.transform(_joined(prompts, responses)))


def compare(score: Score, train: Examples, held_out: Examples, *, kind: Kind, pair_weight: float) -> dict[str, Any]:
    """The judge beside its controls on one held-out set."""
    return {
        "judge": measure(score, held_out, kind=kind),
        "longer": measure(longer, held_out, kind=kind, probability=False),
        "tfidf": measure(words_alone(train, kind=kind, pair_weight=pair_weight), held_out, kind=kind),
    }


def _joined(prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
    return [f"{prompt} {response}" for prompt, response in zip(prompts, responses, strict=True)]
