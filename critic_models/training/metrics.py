"""How good a probability is: ranking, calibration, and the share of variance explained."""

from typing import Any

import torch
from torch import Tensor


def auc(scores: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve, by ranks; ties count half.

    Args:
        scores: Shape (n,), higher means more likely true.
        labels: bool, shape (n,).

    Returns:
        The area, or None if only one class is there.
    """
    labels = labels.bool()
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if positives == 0 or negatives == 0:
        return None
    _, group, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    middle = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of each group of ties, from 1
    rank_sum = float(middle[group][labels].double().sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = 10) -> list[dict[str, float]]:
    """Mean probability and true share in equal bins of [0, 1]; empty bins are left out.

    Args:
        probabilities: Shape (n,).
        labels: bool, shape (n,).
        bins: How many.
    """
    place = (probabilities.double() * bins).long().clamp(0, bins - 1)
    rows = []
    for index in torch.unique(place).tolist():
        inside = place == index
        rows.append(
            {
                "from": index / bins,
                "to": (index + 1) / bins,
                "count": int(inside.sum()),
                "foreseen": float(probabilities[inside].double().mean()),
                "observed": float(labels[inside].double().mean()),
            }
        )
    return rows


def calibration_error(rows: list[dict[str, float]]) -> float:
    """Expected calibration error: the mean gap between predicted and observed, weighted by count."""
    total = sum(row["count"] for row in rows)
    return sum(row["count"] * abs(row["foreseen"] - row["observed"]) for row in rows) / total


def explained(predicted: Tensor, target: Tensor) -> float | None:
    """R², the share of variance explained; None if the targets do not vary. Arguments of shape (n,)."""
    spread = float((target.double() - target.double().mean()).square().sum())
    return None if spread == 0 else 1 - float((target.double() - predicted.double()).square().sum()) / spread


def safety_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """AUC, calibration and the figures they come from, as plain JSON."""
    rows = reliability(probabilities, labels)
    return {
        "count": len(labels),
        "safe_share": float(labels.double().mean()),
        "auc": auc(probabilities, labels),
        "calibration_error": calibration_error(rows),
        "reliability": rows,
    }
