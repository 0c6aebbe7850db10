"""The fused forward gives the model's own states, follows its weights, and steps aside where it would not."""

import copy
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import critic_models.bundled
from ig_plugins.engine import TreeModel
from ig_plugins.engine.forward.fused_decoder import FusedDecoder
from ig_plugins.engine.forward.numerics import difference
from ig_plugins.engine.forward.prepacked_linear import SMALLEST

GQA = {"num_key_value_heads": 2, "head_dim": 8}
FUSED = {
    "llama": {**GQA, "attention_bias": True, "mlp_bias": True},
    "mistral": {**GQA, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {**GQA, "hidden_act": "gelu"},
}
BFLOAT16 = 5e-2  # allowed of a state's norm; the model's own rounding is about half of it
BUNDLED = Path(critic_models.bundled.__file__).parent / "models"
WIDE = {"hidden_size": 128, "intermediate_size": SMALLEST // 128}  # its feed-forward layers are packed, too


def states(tree, *, backend=None):
    """Hidden states and logits of two lanes of two tokens."""
    session = tree.prefill([[5, 6, 7], [4]], lanes=2, block=2, max_new=4)
    session.fork(torch.tensor([[0, 0], [0, -1]]))
    session.extend(torch.tensor([[8, 10], [3, 0]]), torch.tensor([[True, True], [True, False]]))
    session.extend(torch.tensor([[9, 11], [0, 0]]), torch.tensor([[True, True], [False, False]]))
    return torch.stack([*session.lane_hidden[0], session.lane_hidden[1, 0]])


def wanted(tree):
    texts = [[5, 6, 7, 8, 9], [5, 6, 7, 10, 11], [4, 3]]
    with torch.inference_mode():
        return torch.stack([tree.body.reference(torch.tensor([text]))[0][0, -1] for text in texts])


def bfloat16(model):
    """The model in bfloat16, and a float32 one of the very same weights."""
    half = model.bfloat16()
    return half, copy.deepcopy(half).float()


def with_special_tokens(model, special=16, height=30000.0):
    """Let the first tokens have huge activations, which the last layer cancels, as they are known from trained models.

    In half precision what is left of their states is what rounding made of the huge value.
    """
    last, width = model.model.layers[-1], model.config.hidden_size
    with torch.no_grad():
        model.model.embed_tokens.weight[:special, 0] = height
        for layer in model.model.layers:  # nothing else writes there
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        last.post_attention_layernorm.weight[0] = 1.05  # where the two forwards round differently
        behind = 1.05 * width**0.5  # the norm
        gate, up, down = last.mlp.gate_proj.weight, last.mlp.up_proj.weight, last.mlp.down_proj.weight
        gate[:], up[:], down[1:] = 0.0, 0.0, 0.0
        gate[:, 0] = torch.linspace(0.5, 1.5, len(gate))
        up[:, 0] = torch.linspace(0.7, 1.3, len(up))
        down[0] = -height / len(gate) / (torch.nn.functional.silu(gate[:, 0] * behind) * up[:, 0] * behind)
    return model


def calls(run):
    """How often a run calls torch."""

    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    with Calls() as counter:
        run()
    return counter.count


@pytest.mark.parametrize("path", ["segments", "masked"])
@pytest.mark.parametrize("family", FUSED)
def test_families_that_are_fused_give_the_models_states(make_model, family, path):
    tree = TreeModel.attach(make_model(family, **FUSED[family]), backend=path)
    assert tree.body.fused is not None
    assert difference(states(tree), wanted(tree)) < 1e-5


def test_packed_weights_are_part_of_it(make_model):
    tree = TreeModel.attach(make_model("llama", **WIDE))
    assert difference(states(tree), wanted(tree)) < 1e-5


@pytest.mark.parametrize("family", [*FUSED, "tiny-beaver", "tiny-alpaca"])
def test_it_runs_in_bfloat16_and_gives_the_models_states_up_to_rounding(make_model, family):
    bundled = family not in FUSED
    model = (
        transformers.AutoModelForCausalLM.from_pretrained(BUNDLED / family).eval()
        if bundled
        else make_model(family, **FUSED[family])
    )
    half, exact = bfloat16(model)
    tree = TreeModel.attach(half)
    assert tree.body.fused is not None
    assert difference(states(tree), wanted(tree)) < BFLOAT16
    assert difference(states(tree), wanted(TreeModel.attach(exact))) < BFLOAT16


def test_tokens_whose_states_are_rounding_alone_do_not_cost_it(make_model):
    model = with_special_tokens(make_model("llama", num_hidden_layers=4, vocab_size=256))
    half, exact = bfloat16(model)
    tree = TreeModel.attach(half)
    assert tree.body.fused is not None
    with torch.inference_mode():
        special, ordinary = torch.arange(8).view(2, 4), torch.arange(100, 132).view(2, 16)
        assert difference(tree.body.run(ordinary, keep=None)[0], tree.body.reference(ordinary)[0]) < BFLOAT16
        assert difference(tree.body.run(ordinary, keep=None)[0], exact.model(ordinary).last_hidden_state) < BFLOAT16
        # Two forwards that differ in rounding alone: what the model makes of its special tokens tells nothing.
        found, expected = tree.body.run(special, keep=None)[0], tree.body.reference(special)[0]
        if torch.equal(found, expected):
            pytest.skip("this torch rounds both alike (2.6 does), so that there is nothing to tell apart")
        assert difference(found, expected) > 1.0


def test_another_function_is_not_used_in_bfloat16_either(make_model, monkeypatch):
    model = make_model("llama", vocab_size=256).bfloat16()
    assert FusedDecoder.of(model.model) is not None
    monkeypatch.setattr("ig_plugins.engine.forward.fused_decoder._Rotary.__call__", lambda self, heads: heads)
    assert FusedDecoder.of(model.model) is None


def test_a_fused_step_calls_torch_far_less_often(make_model):
    model = make_model("llama", num_hidden_layers=4)
    ids, fused = torch.tensor([[5, 6, 7]]), FusedDecoder.of(model.model)
    with torch.inference_mode():
        plain = calls(lambda: model.model(input_ids=ids, use_cache=False))
        with fused.in_use():
            assert calls(lambda: model.model(input_ids=ids, use_cache=False)) < 0.7 * plain


def test_only_the_engine_runs_it(make_model):
    model = make_model("llama")
    tree = TreeModel.attach(model)
    states(tree)
    assert "forward" not in vars(model.model)
    with pytest.raises(IndexError), torch.inference_mode(), tree.body.fused.in_use():
        model.model(input_ids=torch.tensor([[99999]]))  # no such token
    assert "forward" not in vars(model.model)
    with tree.body.fused.in_use():  # gradients are wanted here
        assert "forward" not in vars(model.model)


def test_others_may_call_the_model_meanwhile(make_model):
    model = make_model("llama")
    tree, ids = TreeModel.attach(model), torch.tensor([[5, 6, 7], [0, 8, 9]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])

    def ask():
        said = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        return said, model(inputs_embeds=model.model.embed_tokens(ids), output_hidden_states=True).hidden_states[1]

    alone = ask()
    with torch.inference_mode(), tree.body.fused.in_use():
        assert all(map(torch.equal, ask(), alone))


@pytest.mark.parametrize("change", ["data", "bias", "norm", "embedding", "half"])
def test_it_follows_the_weights(make_model, change):
    model = make_model("llama", **WIDE, attention_bias=True)
    tree = TreeModel.attach(model)
    before = states(tree)
    layer = model.model.layers[0]
    with torch.no_grad():
        if change == "data":  # does not raise the version counter
            layer.self_attn.k_proj.weight.data[3, 5] += 2.0
        elif change == "bias":
            layer.self_attn.v_proj.bias.add_(0.5)
        elif change == "norm":
            layer.input_layernorm.weight.mul_(1.5)
        elif change == "embedding":
            model.model.embed_tokens.weight[5] += 1.0
        else:
            model.bfloat16().float()
    after = states(tree)
    assert not torch.equal(before, after)
    assert difference(after, wanted(tree)) < 1e-5


def test_hooks_on_layers_get_the_layers_own_forward(make_model):
    model, seen = make_model("llama"), []
    tree = TreeModel.attach(model)
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *args: seen.append(True))
    before = states(tree)
    assert len(seen) == 3
    hook.remove()
    assert difference(states(tree), before) < 1e-5
    assert len(seen) == 3


def test_hooks_on_the_decoder_see_its_forwards(make_model):
    model, seen = make_model("llama"), []
    tree = TreeModel.attach(model)
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    states(tree)
    assert seen == [(2, 3), (1, 3), (1, 2)]


class Adapted(torch.nn.Linear):
    """Stands for a layer that is more than a weight."""


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {**GQA, "sliding_window": 4}),
        ("gemma", GQA),
        ("granite", {**GQA, "residual_multiplier": 0.5}),
        ("olmo2", GQA),
        ("smollm3", {"num_key_value_heads": 2}),
        ("gpt2", {}),
    ],
)
def test_other_families_run_as_they_are(make_model, family, changes):
    assert TreeModel.attach(make_model(family, **changes)).body.fused is None


def test_a_model_that_is_not_as_transformers_makes_it_runs_as_it_is(make_model):
    model = make_model("llama")
    model.model.layers[0].mlp.up_proj = Adapted(32, 48, bias=False)
    assert FusedDecoder.of(model.model) is None
    model = make_model("llama")
    forward = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda states: 2 * forward(states)
    assert FusedDecoder.of(model.model) is None


def test_what_does_not_give_the_models_states_is_not_used(make_model, monkeypatch):
    monkeypatch.setattr("ig_plugins.engine.forward.fused_decoder._Rotary.__call__", lambda self, heads: heads)
    assert FusedDecoder.of(make_model("llama").model) is None
