"""PEFT adapters and quantised policies: a guard decodes what the plain model computes."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM

from ig_plugins import InferenceGuard
from ig_plugins.engine import TreeModel
from ig_plugins.engine.backends.quantised import has_quantised_layers, own_tolerance
from ig_plugins.engine.forward.body import Body
from ig_plugins.errors import ModelLoadError
from tests.kit.guards import cost_of_marker, length_reward
from tests.kit.tiny import tiny_config
from tests.kit.tokenizer import byte_tokenizer

peft = pytest.importorskip("peft", reason="pip install 'inferenceguard[peft]'")
torch.set_num_threads(1)
GUARD = {
    "cost_model": cost_of_marker, "reward_model": length_reward, "prompt_format": "beaver", "device": "cpu",
    "candidates": 4, "beams": 2, "block_tokens": 4, "max_tokens": 12, "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("base"), byte_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(tokenizer, hidden_size=64, intermediate_size=128)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(5, 25).unsqueeze(0)).logits


def test_an_adapter_is_its_base_with_its_weights_merged_or_applied(base, adapter):
    plain = AutoModelForCausalLM.from_pretrained(base)
    wanted = logits(peft.PeftModel.from_pretrained(plain, str(adapter)))
    merged = InferenceGuard.from_pretrained(adapter, **GUARD)
    applied = InferenceGuard.from_pretrained(str(adapter), load_options={"merge_adapter": False}, **GUARD)
    for guard in (merged, applied):
        model = guard.components.policy.tree.body.model
        torch.testing.assert_close(logits(model), wanted, atol=1e-4, rtol=1e-4)
    assert type(merged.components.policy.tree.body.model.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - wanted).abs().max() > 0.01
    assert merged.generate("Go.").token_ids == applied.generate("Go.").token_ids


def test_adapters_that_cannot_be_used_are_named(base, adapter, tmp_path):
    def changed(**values):
        folder = shutil.copytree(adapter, tmp_path / str(len(list(tmp_path.iterdir()))))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **values}))
        return folder

    with pytest.raises(ModelLoadError, match=r"adapts '/no/such/base', which .*Correct base_model_name_or_path"):
        InferenceGuard.from_pretrained(changed(base_model_name_or_path="/no/such/base"), **GUARD)
    with pytest.raises(ModelLoadError, match="names no base_model_name_or_path"):
        InferenceGuard.from_pretrained(changed(base_model_name_or_path=None), **GUARD)
    with pytest.raises(ModelLoadError, match="this adapter does not fit"):
        InferenceGuard.from_pretrained(changed(r=8), **GUARD)
    with pytest.raises(ModelLoadError, match=r"this adapter does not fit.*missing adapter keys"):
        InferenceGuard.from_pretrained(changed(target_modules=["q_proj", "down_proj", "k_proj"]), **GUARD)
    pickled = changed()
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="only pickled weights"):
        InferenceGuard.from_pretrained(pickled, **GUARD)
    prompt = tmp_path / "prompt"
    tuned = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), tuned).save_pretrained(prompt)
    with pytest.raises(ModelLoadError, match="an adapter of type PROMPT_TUNING"):
        InferenceGuard.from_pretrained(prompt, **GUARD)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_bitsandbytes_policy_is_served(base, adapter, bits, dtype):
    pytest.importorskip("bitsandbytes", reason="pip install 'inferenceguard[quantization]'")
    options = {"quantization_config": BitsAndBytesConfig(**{f"load_in_{bits}bit": True}), "device_map": "cpu"}
    for source in (base, adapter):  # an adapter is applied to a quantised base, not merged
        guard = InferenceGuard.from_pretrained(source, dtype=dtype, load_options=options, **GUARD)
        assert guard.components.policy.tree.body.model.is_quantized
        assert len(guard.generate("Go.").token_ids) > 0


class RoundsTogether(torch.nn.Module):
    """A linear layer that rounds its input by the largest number in the whole forward, as 8-bit layers do."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("values", layer.weight.detach().clone())

    def forward(self, x):
        scale = x.abs().max() / 9
        return torch.nn.functional.linear((x / scale).round() * scale, self.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layers_that_round_a_forward_as_a_whole_are_served_on_the_portable_path(base, dtype):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for layer in model.model.layers:
        layer.mlp.down_proj = RoundsTogether(layer.mlp.down_proj)
        layer.self_attn.q_proj = RoundsTogether(layer.self_attn.q_proj)
    assert TreeModel.attach(model).path == "portable"


def test_floating_layers_have_no_such_allowance(base):
    model = AutoModelForCausalLM.from_pretrained(base)
    assert not has_quantised_layers(model)
    model.model.layers[0].mlp.down_proj = RoundsTogether(model.model.layers[0].mlp.down_proj)
    assert has_quantised_layers(model)
    tolerance = own_tolerance(Body(model))
    assert 1e-3 < tolerance <= 0.3
