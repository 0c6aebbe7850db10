"""The value network and the two methods that steer by it."""

import pytest
import torch

from ig_plugins.research.methods import method
from ig_plugins.research.methods.re_control import ReControl
from ig_plugins.research.methods.value import Rollouts, fit, rollouts, sample, trained_value


def test_fit_learns_what_can_be_learnt_and_holds_prompts_out():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 6, generator=generator) * 5 + 3
    targets = torch.tanh(features[:, 0] - 3) + 0.5 * features[:, 1] + 0.1 * torch.randn(3000, generator=generator)
    net = fit(Rollouts(features, targets, torch.arange(3000) // 30), seed=0)
    fresh = torch.randn(500, 6, generator=generator) * 5 + 3
    truth = torch.tanh(fresh[:, 0] - 3) + 0.5 * fresh[:, 1]
    assert torch.nn.functional.mse_loss(net(fresh), truth) < 0.05 * truth.var()
    again = fit(Rollouts(features, targets, torch.arange(3000) // 30), seed=0)
    assert torch.equal(net(fresh), again(fresh))


def test_rollouts_hold_the_states_of_a_full_forward_and_the_end_score_at_every_prefix(tiny):
    data = rollouts(tiny, sample(tiny, ["why"]), "reward")
    request = tiny.request("why", seed=0)
    model = tiny.policy.tree.body.model
    hidden = model.model(torch.tensor([list(request.prompt_ids)])).last_hidden_state[0, -1]
    assert torch.allclose(data.features[0], hidden, atol=1e-4), "the first row is the prompt's end"
    starts = (data.features - data.features[0]).abs().sum(-1) < 1e-6
    assert int(starts.sum()) == 8, "one prefix of length 0 an answer"
    for group in data.targets.tensor_split(starts.nonzero().flatten()[1:]):
        assert (group == group[0]).all()
    assert len(set(data.targets.tolist())) > 1


def test_without_ascent_re_control_is_base(tiny):
    net = trained_value(tiny, "reward")
    head = tiny.policy.tree.body.head
    idle = ReControl(tiny, net, head, steps=0)
    for seed in range(3):
        mine = idle.answer(["q"], seeds=[seed])[0].token_ids
        base = method("base").build(tiny).answer(["q"], seeds=[seed])[0].token_ids
        assert mine[: len(base)] == base
        assert set(tiny.policy.tokenizer.decode(mine[len(base) :])) <= {"\ufffd"}, "base ends before half a character"


def test_the_ascent_climbs_the_value_and_changes_the_answer(tiny):
    net = trained_value(tiny, "reward")
    steering = ReControl(tiny, net, tiny.policy.tree.body.head)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    before = hidden.clone()
    assert (net(steering.steered(hidden)) >= net(hidden)).all()
    assert torch.equal(hidden, before), "the model's own state is left alone"
    answers = [steering.answer(["q"], seeds=[seed])[0].token_ids for seed in range(5)]
    base = [method("base").build(tiny).answer(["q"], seeds=[seed])[0].token_ids for seed in range(5)]
    assert answers != base


def test_a_value_network_is_trained_once(tiny):
    assert trained_value(tiny, "reward") is trained_value(tiny.with_candidates(4), "reward")
    assert trained_value(tiny, "lagrangian") is not trained_value(tiny, "reward")


def test_controlled_decoding_keeps_the_block_with_the_highest_value(careless):
    """A policy whose hidden state tells the end's reward exactly: greedy by blocks then finds the best answer."""
    known = {"bad but great": 3.0, "good and fine": 2.0, "good then bad": 2.5, "no": -1.0}

    def hidden(prompt, response):
        text = bytes_of(response)
        reachable = [value for answer, value in known.items() if answer.startswith(text)] or [0.0]
        return [max(reachable), len(response) / 10, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    context = careless(hidden=hidden, training_prompts=tuple("abcdefgh"), search={"candidates": 16, "block_tokens": 3})

    def bytes_of(response):
        return context.policy.tokenizer.decode(list(response), skip_special_tokens=True)

    found = [method("controlled-decoding").build(context).answer(["p"], seeds=[s])[0].text for s in range(5)]
    assert found.count("bad but great") >= 4


@pytest.mark.parametrize("target", ["reward", "lagrangian"])
def test_targets_are_the_rule_at_the_end(careless, target):
    context = careless(multiplier=5.0)
    data = rollouts(context, sample(context, ["p", "q"]), target)
    expected = {
        "reward": {3.0, 2.0, 2.5, -1.0},
        "lagrangian": {3.0 - 5, 2.0 + 5, 2.5 - 5, -1.0 + 5},
    }[target]
    assert set(data.targets.tolist()) <= expected
    assert set(data.prompt.tolist()) == {0, 1}
