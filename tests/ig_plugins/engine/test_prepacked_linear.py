"""The copies that the engine multiplies with give the model's own results, and nobody else sees them."""

import pytest
import torch

from ig_plugins.engine import TreeModel
from ig_plugins.engine.forward.prepacked_linear import LIMIT, SMALLEST, PrepackedLinears, within_limit

LANES = [[8, 9], [10, 11]]


@pytest.fixture
def model(make_model):
    """Wide enough for its feed-forward layers and head to be packed, its attention's not; never run lean."""
    return make_model("phi3", hidden_size=128, intermediate_size=SMALLEST // 128, vocab_size=SMALLEST // 128)


def states(tree):
    session = tree.prefill([[5, 6, 7]], lanes=2, block=2, max_new=4)
    session.fork(torch.tensor([[0, 0]]))
    session.append(torch.tensor([LANES]), torch.tensor([[2, 2]]))
    return session.lane_hidden[0], session.lane_logits[0]


def expected(tree):
    found = [tree.body.reference(torch.tensor([[5, 6, 7, *new]])) for new in LANES]
    return tuple(torch.stack([each[part][0, -1] for each in found]) for part in (0, 1))


def close(found, wanted):
    for mine, plain in zip(found, wanted, strict=True):
        scale = plain.detach().abs().max()
        torch.testing.assert_close(mine / scale, plain.detach() / scale, atol=2e-5, rtol=0)


@pytest.fixture
def products(monkeypatch):
    """Rows of every packed product."""
    rows, product = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *args: rows.append(args[0].shape[-2]) or product(*args)
    )
    return rows


def test_packed_layers_give_the_models_states_and_logits(model, products):
    tree = TreeModel.attach(model)
    products.clear()
    found = states(tree)
    assert len(products) == 2 * (2 * 2 + 1)  # prefill and feed: two wide layers in each of two, and the head
    close(found, expected(tree))


def test_only_the_engine_uses_them(model, products):
    tree = TreeModel.attach(model)
    products.clear()
    model(torch.tensor([[5, 6, 7]]))
    with torch.no_grad():
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False)
    assert products == []
    with pytest.raises(RuntimeError, match="stop"), tree.body.packed.in_use():
        raise RuntimeError("stop")
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("change", ["data", "step", "sign", "half"])
def test_weights_that_change_are_packed_again(model, change):
    tree = TreeModel.attach(model)
    before = states(tree)
    weight = model.model.layers[0].mlp.gate_up_proj.weight
    if change == "data":  # does not raise the version counter
        weight.data[3, 5] += 2.0
    elif change == "step":
        with torch.no_grad():
            weight.add_(0.01)
    elif change == "sign":
        weight.data.neg_()
    else:
        model.bfloat16().float()
    after = states(tree)
    assert not torch.equal(before[0], after[0])
    close(after, expected(tree))


def test_a_model_in_half_precision_is_left_alone(model, products):
    tree = TreeModel.attach(model.bfloat16())
    states(tree)
    assert products == []


def test_large_models_are_not_copied():
    with torch.device("meta"):
        large = [torch.nn.Linear(2**13, 2**13, bias=False) for _ in range(5)]
    assert sum(module.weight.nbytes for module in large) > LIMIT
    for module in large:
        module.weight = torch.nn.Parameter(torch.empty(1).expand(2**13, 2**13))
    assert not within_limit(large)
    assert PrepackedLinears(large)._products == []
