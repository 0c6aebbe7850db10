"""Stratified draws: every lane is a plain sample, and the lanes of a beam share the distribution out."""

import pytest
import torch

from tests.kit.contexts import scripted_context


def request(seed=0, **search):
    context = scripted_context({"a": 0.5, "b": 0.5}, cost=lambda p, r: 0.0, reward=None, search=search)
    return context.guard.request("p", seed=seed)


@pytest.mark.parametrize(("lanes", "beams"), [(16, 1), (16, 4), (7, 3), (2, 4)])
def test_the_lanes_of_a_beam_fall_into_different_shares_at_every_token(lanes, beams):
    drawn = request().uniforms(lanes, 5, beams=beams)
    assert drawn.shape == (lanes, 5)
    assert ((drawn >= 0) & (drawn < 1)).all()
    for beam in range(min(beams, lanes)):
        mine = drawn[beam::beams]
        shares = (mine * len(mine)).long().sort(dim=0).values
        assert torch.equal(shares, torch.arange(len(mine)).unsqueeze(1).expand(-1, 5))


def test_each_lane_alone_is_uniform_and_its_tokens_are_independent():
    lane = torch.stack([request(seed).uniforms(8, 2, beams=2)[5] for seed in range(2000)])  # (R, T)
    assert torch.allclose(lane.mean(dim=0), torch.tensor(0.5, dtype=torch.float64), atol=0.03)
    assert torch.allclose(lane.var(dim=0), torch.tensor(1 / 12, dtype=torch.float64), atol=0.01)
    assert abs(float(torch.corrcoef(lane.T)[0, 1])) < 0.08


def test_without_strata_draws_are_independent():
    drawn = request(stratified=False).uniforms(64, 1)
    assert len((drawn * 64).long().unique()) < 60
