"""Logistic regression on labelled answers and on preference pairs at once, cross-fitted over prompts.

A pair is learnt as the difference of its two answers without intercept (Bradley and Terry), an answer with its label as
usual. scikit-learn does the fitting; what it leaves is one weight vector, which inference reads without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from critic_models.errors import ConfigurationError
from critic_models.judges.protocol import Kind
from critic_models.training.heads.data import Examples

Floats = NDArray[np.float64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C, the inverse of the regularisation
ROUNDS = 500


class Linear(NamedTuple):
    """Weights (d,) and bias of a linear score."""

    weight: Floats
    bias: float

    def __call__(self, features: Any) -> Floats:
        """Scores (n,) of features (n, d), dense or sparse."""
        return np.asarray(features @ self.weight + self.bias, dtype=np.float64)


@dataclass
class Texts:
    """All texts of some examples in one order: A answers, then P chosen ones, then P rejected ones.

    Attributes:
        examples: Where they come from.
        kind: Whether a higher score is to mean unsafe or preferred.
        pair_weight: Of a pair, where an answer counts 1.
    """

    examples: Examples
    kind: Kind
    pair_weight: float = 1.0

    def __post_init__(self) -> None:
        answers, pairs = self.examples.answers, self.examples.pairs
        self.prompts = [*(a.prompt for a in answers), *(p.prompt for p in [*pairs, *pairs])]
        self.responses = [*(a.response for a in answers), *(p.chosen for p in pairs), *(p.rejected for p in pairs)]
        self.answers, self.pairs = len(answers), len(pairs)

    def check(self) -> None:
        """Refuses what no classifier can be fitted to.

        Raises:
            ConfigurationError: Nothing there, or answers of one class only and no pairs.
        """
        labels = {answer.label for answer in self.examples.answers}
        if not self.answers and not self.pairs:
            raise ConfigurationError("there is nothing to learn from; give labelled answers or pairs")
        if len(labels) == 1 and not self.pairs:
            raise ConfigurationError(f"all labels are {labels.pop()}; give both safe (0) and unsafe (1) answers")

    def design(self, features: Any) -> tuple[Any, NDArray[np.int64], Floats]:
        """Rows (A + P, d + 1) with a column for the intercept, targets and weights.

        Args:
            features: Shape (A + 2 P, d), dense or sparse, in the order of the texts.
        """
        from scipy.sparse import csr_matrix, hstack, issparse, vstack

        A, P = self.answers, self.pairs
        higher, lower = (A + P, A) if self.kind == "cost" else (A, A + P)
        sign = np.where(np.arange(P) % 2 == 0, 1.0, -1.0)  # both classes must be there
        one = np.concatenate([np.ones(A), np.zeros(P)])[:, None]
        targets = np.array([*(a.label for a in self.examples.answers), *(sign > 0)], dtype=np.int64)
        weights = np.concatenate([np.ones(A), np.full(P, self.pair_weight)])
        if issparse(features):
            rows = csr_matrix(features)
            between = (rows[higher : higher + P] - rows[lower : lower + P]).multiply(sign[:, None])
            return hstack([vstack([rows[:A], between]), csr_matrix(one)]).tocsr(), targets, weights
        between = (features[higher : higher + P] - features[lower : lower + P]) * sign[:, None]
        return np.hstack([np.vstack([features[:A], between]), one]), targets, weights

    def parts(self, folds: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """The fold (A + 2 P,) that each text's prompt is in."""
        of = {prompt: index for index, fold in enumerate(folds) for prompt in fold}
        return np.array([of[prompt] for prompt in self.prompts], dtype=np.int64)


def fit(design: tuple[Any, NDArray[np.int64], Floats], *, strength: float) -> Linear:
    """Logistic regression with the given C."""
    rows, targets, weights = design
    try:
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            'training a judge needs scikit-learn: pip install "inferenceguard[training]"; reading with one does not'
        ) from error
    # The intercept is a column of its own, worth nothing in pairs; scaled so that it is hardly regularised.
    found = LogisticRegression(C=strength, fit_intercept=False, max_iter=ROUNDS, tol=1e-5)
    rows = _scaled(rows, INTERCEPT)
    found.fit(rows, targets, sample_weight=weights)
    return Linear(found.coef_[0, :-1].astype(np.float64), float(found.coef_[0, -1] * INTERCEPT))


INTERCEPT = 10.0


def _scaled(rows: Any, by: float) -> Any:
    from scipy.sparse import diags, issparse

    scale = np.ones(rows.shape[1])
    scale[-1] = by
    return (rows @ diags(scale)).tocsr() if issparse(rows) else rows * scale


def cross_fitted(texts: Texts, features: Any, folds: Sequence[Sequence[str]], *, strength: float) -> Floats:
    """Scores (A + 2 P,) of every text by a model that never saw its prompt."""
    part = texts.parts(folds)
    rows, targets, weights = texts.design(features)
    of_row = part[: texts.answers + texts.pairs]
    scores = np.zeros(len(part))
    for index in range(len(folds)):
        kept = np.flatnonzero(of_row != index)
        if len(set(targets[kept])) < 2:
            raise ConfigurationError(
                "too few prompts: without one fifth of them only one class is left; give more rows"
            )
        model = fit((rows[kept], targets[kept], weights[kept]), strength=strength)
        scores[part == index] = model(features[part == index])
    return scores


def losses(texts: Texts, scores: Floats) -> Floats:
    """Logistic loss (A + P,) of scores (A + 2 P,), by the examples' weights, of mean weight 1."""
    rows = texts.design(scores[:, None])[0][:, 0]
    _, targets, weights = texts.design(np.zeros((len(scores), 1)))
    found: Floats = np.logaddexp(0, -np.where(targets == 1, 1.0, -1.0) * rows) * weights / weights.mean()
    return found


def best_strength(texts: Texts, features: Any, folds: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """The most regularised C that is as good as the best within its standard error, and its cross-fitted scores.

    The one-standard-error rule of Breiman et al. (1984): a head is asked about other answers than it learnt from, and
    what is gained within the noise of one's own data is lost there.
    """
    part = texts.parts(folds)[: texts.answers + texts.pairs]
    tried: dict[float, tuple[float, float, Floats]] = {}
    for strength in STRENGTHS:
        crossed = cross_fitted(texts, features, folds, strength=strength)
        lost = losses(texts, calibration(texts, crossed[:, None])(crossed[:, None]))
        means = np.array([lost[part == index].mean() for index in range(len(folds))])
        tried[strength] = (float(lost.mean()), float(means.std(ddof=1) / len(means) ** 0.5), crossed)
    least, error, _ = min(tried.values(), key=lambda each: each[0])
    chosen = min(strength for strength, (value, _, _) in tried.items() if value <= least + error)
    return chosen, tried[chosen][2]


def calibration(texts: Texts, scores: Floats) -> Linear:
    """Platt's scaling of cross-fitted scores (A + 2 P, parts): what each part counts, and the intercept."""
    return fit(texts.design(scores), strength=1.0)
