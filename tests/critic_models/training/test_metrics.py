import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score

from critic_models.training.metrics import auc, calibration_error, explained, reliability


def test_auc_and_r2_equal_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    for levels in (3, 10, 1000):  # few levels: many ties
        scores = torch.randint(0, levels, (200,), generator=generator).float()
        labels = torch.rand(200, generator=generator) < 0.3
        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels.numpy(), scores.numpy()))
        target = torch.randn(200, generator=generator)
        assert explained(scores, target) == pytest.approx(r2_score(target.numpy(), scores.numpy()), rel=1e-5)


def test_one_class_has_no_auc_and_constant_targets_no_r2():
    assert auc(torch.rand(4), torch.ones(4, dtype=torch.bool)) is None
    assert explained(torch.rand(4), torch.ones(4)) is None


def test_reliability_of_a_known_case():
    probabilities = torch.tensor([0.05, 0.05, 0.95, 1.0, 0.55])
    rows = reliability(probabilities, torch.tensor([0, 1, 1, 1, 0]))
    assert [(row["from"], row["count"], row["observed"]) for row in rows] == [
        (0.0, 2, 0.5),
        (0.5, 1, 0.0),
        (0.9, 2, 1.0),
    ]
    assert calibration_error(rows) == pytest.approx((2 * 0.45 + 0.55 + 2 * 0.025) / 5)
