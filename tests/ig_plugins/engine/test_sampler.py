import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ig_plugins.engine import NonFiniteLogitsError, Sampler
from ig_plugins.errors import ConfigurationError

V = 2000
GRID = 20_000


def warped(logits, sampler):
    """The distribution transformers draws from."""
    scores = TemperatureLogitsWarper(sampler.temperature)(None, logits) if sampler.temperature != 1 else logits
    if sampler.top_k:
        scores = TopKLogitsWarper(sampler.top_k)(None, scores)
    if sampler.top_p < 1:
        scores = TopPLogitsWarper(sampler.top_p)(None, scores)
    if sampler.min_p:
        scores = MinPLogitsWarper(sampler.min_p)(None, scores)
    return scores.softmax(-1)


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(temperature=0.7),
        Sampler(top_k=50),
        Sampler(top_k=5000),
        Sampler(top_p=0.9),
        Sampler(top_p=0.05, temperature=1.3),
        Sampler(top_k=30, top_p=0.8, temperature=0.9),
        Sampler(min_p=0.1),
        Sampler(min_p=0.02, top_p=0.9, temperature=1.3),
        Sampler(top_k=30, min_p=0.2),
    ],
    ids=str,
)
def test_an_even_grid_of_uniforms_reproduces_the_distribution_of_transformers(sampler, spread):
    logits = spread * torch.randn(2, V, generator=torch.Generator().manual_seed(0))
    grid = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    drawn = sampler.draw(logits, grid.expand(2, -1))
    for row in range(2):
        frequency = torch.bincount(drawn[row], minlength=V) / GRID
        # A token of mass p owns an interval of length p, which holds p * GRID grid points give or take one.
        assert (frequency - warped(logits[row : row + 1], sampler)[0]).abs().max() < 1.5 / GRID


def test_a_wide_nucleus_is_sorted_in_full_only_where_needed():
    logits = torch.stack([torch.zeros(V), torch.arange(V, dtype=torch.float32)])
    drawn = Sampler(top_p=0.99).draw(logits, torch.tensor([0.9999, 0.9999], dtype=torch.float64))
    assert drawn[1] >= V - 6
    masses = warped(logits, Sampler(top_p=0.99))
    assert masses[0, drawn[0]] > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-80, 80), min_size=2, max_size=40),
    st.integers(0, 39),
    st.sampled_from([0.0, 0.5, 1 - 2**-24, 1 - 2**-53]),
    st.sampled_from([Sampler(), Sampler(top_k=3), Sampler(top_p=0.7), Sampler(top_k=7, top_p=0.4)]),
)
def test_no_uniform_reaches_a_forbidden_token(values, forbidden, uniform, sampler):
    logits = torch.tensor([values])
    logits[0, forbidden % len(values)] = -math.inf
    logits = torch.cat([logits, torch.full((1, 5), -math.inf)], dim=1)
    drawn = sampler.draw(logits, torch.tensor([uniform], dtype=torch.float64))
    assert logits[0, drawn[0]] > -math.inf


def test_temperature_zero_is_greedy_whatever_the_uniform():
    logits = torch.randn(3, V)
    uniforms = torch.rand(3, 4, dtype=torch.float64)
    drawn = Sampler(temperature=0).draw(logits, uniforms)
    assert torch.equal(drawn, logits.argmax(-1, keepdim=True).expand(-1, 4))


def test_the_smallest_temperature_is_greedy_too():
    logits = torch.randn(3, V)
    drawn = Sampler(temperature=1e-40).draw(logits, torch.rand(3, dtype=torch.float64))
    assert torch.equal(drawn, logits.argmax(-1))


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(temperature=0), Sampler(top_k=4), Sampler(top_p=0.5)], ids=str)
@pytest.mark.parametrize("bad", ["nan", "inf", "all forbidden"])
def test_logits_that_cannot_be_sampled_from_raise(sampler, bad):
    logits = torch.randn(2, 20)
    logits[1, 3:] = -math.inf if bad == "all forbidden" else logits[1, 3:]
    logits[1, :3] = -math.inf if bad == "all forbidden" else float(bad)
    with pytest.raises(NonFiniteLogitsError, match="nothing was sampled"):
        sampler.draw(logits, torch.tensor([0.3, 0.3]))


def test_processors_and_repetition_penalty_are_those_of_transformers():
    logits, history = torch.randn(3, 30), [[1, 2, 3], [4, 4], [5, 6, 7]]
    sampler = Sampler(temperature=0, repetition_penalty=5.0, processors=(MinLengthLogitsProcessor(3, 9),))
    logits[:, 9] = 50.0
    drawn = sampler.draw(logits, torch.zeros(3), history=history)
    for row, ids in enumerate(history):
        ids = torch.tensor([ids])
        scores = RepetitionPenaltyLogitsProcessor(5.0)(ids, logits[row : row + 1])
        expected = MinLengthLogitsProcessor(3, 9)(ids, scores).argmax()
        assert drawn[row] == expected
    assert drawn[0] == 9
    assert drawn[1] != 9
    with pytest.raises(ConfigurationError, match="pass history"):
        sampler.draw(logits, torch.zeros(3))


def test_penalties_come_off_the_logits():
    logits = torch.tensor([[1.0, 0.9, -5.0]])
    assert Sampler(temperature=0).draw(logits, torch.zeros(1), penalties=torch.tensor([0.5, 0, 0])).item() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", math.nan), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("min_p", -0.1),
     ("min_p", 1.1), ("min_p", math.nan), ("repetition_penalty", 0.0), ("repetition_penalty", math.nan)],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(field, value):
    with pytest.raises(ConfigurationError, match=field):
        Sampler(**{field: value})
