"""Every family's tree equals its plain full forward."""

import pytest

from ig_plugins.engine import TreeModel
from ig_plugins.engine.backends import tree_mask
from ig_plugins.errors import ConfigurationError, ModelLoadError, UnsupportedModelError

WINDOW = 4  # shorter than every text of the walk
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
GQA = {"num_key_value_heads": 2, "head_dim": 8}
MASKED = {
    "llama": [{**GQA}, {}],
    "mistral": [{**GQA, "sliding_window": WINDOW}, {**GQA, "sliding_window": None}],
    "qwen2": [
        {"num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 1, **SLIDING},
        {"num_key_value_heads": 2},
    ],
    "qwen3": [{**GQA}],
    "gemma2": [{**GQA, **SLIDING, "query_pre_attn_scalar": 8}],
    "gemma3_text": [{**GQA, **SLIDING, "query_pre_attn_scalar": 8}],
    "phi3": [{"num_key_value_heads": 2, "sliding_window": WINDOW}, {"num_key_value_heads": 2}],
    "gpt2": [{}],
    "gpt_neox": [{"use_parallel_residual": True}, {"use_parallel_residual": False}],
    "opt": [{"ffn_dim": 48, "word_embed_proj_dim": 32}],
    "falcon": [{"alibi": False, "new_decoder_architecture": False}, {"alibi": False, "new_decoder_architecture": True}],
    "olmo2": [{**GQA}],
    "granite": [{**GQA, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.2}],
    "smollm3": [{"num_key_value_heads": 2}],
    "cohere2": [{**GQA, **SLIDING, "logit_scale": 0.25}],
    "gpt_oss": [{**GQA, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}],
    "cohere": [{"num_key_value_heads": 2, "logit_scale": 0.25}],
    "gemma": [{**GQA}],
    "phi": [{}],
    "starcoder2": [{"num_key_value_heads": 2, "sliding_window": WINDOW}],
    "stablelm": [{"num_key_value_heads": 2}],
    "mixtral": [{**GQA, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}],
    "llama4_text": [
        {**GQA, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": WINDOW,
         "layer_types": ["chunked_attention", "full_attention"]}
    ],
    "deepseek_v3": [
        {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
         "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    ],
}  # fmt: skip
SEGMENTS = [
    "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "gpt2", "gpt_neox", "opt", "olmo2", "granite",
    "smollm3", "cohere", "stablelm", "mixtral",
]  # fmt: skip
PORTABLE = {
    "bloom": {"n_head": 4, "n_layer": 2},
    "falcon": {"alibi": True},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    "jamba": {"num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4,
              "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_experts": 2},
    "llama": {},
}  # fmt: skip
CASES = [
    pytest.param(family, changes, id=f"{family}-{i}")
    for family, many in MASKED.items()
    for i, changes in enumerate(many)
]


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_masked_equals_the_full_forward(make_model, walk_everything, family, changes):
    walk_everything(make_model(family, **changes), backend="masked")


@pytest.mark.parametrize("family", SEGMENTS)
def test_segments_equal_the_full_forward(make_model, walk_everything, family):
    walk = walk_everything(make_model(family, **MASKED[family][-1]))
    assert walk.tree_model.backend == "segments"


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        (family, {**MASKED[family][0]})
        for family in ("mistral", "gemma2", "gemma3_text", "gpt_oss", "phi3", "starcoder2")
    ],
)
def test_families_that_segments_would_get_wrong_are_refused_there_and_left_as_they_were(make_model, family, changes):
    model = make_model(family, **changes)
    implementation = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError, match="segments: "):
        TreeModel.attach(model, backend="segments")
    assert model.config._attn_implementation == implementation
    assert TreeModel.attach(model).backend == "masked"


@pytest.mark.parametrize("family", PORTABLE)
def test_portable_equals_the_full_forward(make_model, walk_everything, family):
    walk_everything(make_model(family, **PORTABLE[family]), backend="portable")


@pytest.mark.parametrize("family", [family for family in PORTABLE if family != "llama"])
def test_models_that_cannot_follow_a_tree_are_attached_to_the_portable_path(make_model, family):
    assert TreeModel.attach(make_model(family, **PORTABLE[family])).backend == "portable"


@pytest.mark.parametrize("family", ["bloom", "mamba", "falcon"])
def test_a_path_that_would_be_wrong_is_refused(make_model, family):
    with pytest.raises(UnsupportedModelError, match=rf"'{family}'.*masked: "):
        TreeModel.attach(make_model(family, **PORTABLE[family]), backend="masked")


def test_a_model_that_no_path_runs_is_refused_with_its_family_and_every_reason(make_model):
    with pytest.raises(UnsupportedModelError, match=r"'rwkv'.*masked: .*portable: .*returns no cache"):
        TreeModel.attach(make_model("rwkv", attention_hidden_size=32))


def test_a_forgotten_window_does_not_pass_the_self_test(make_model, monkeypatch):
    model = make_model("mistral", **GQA, sliding_window=16)
    monkeypatch.setattr(tree_mask, "attention_kinds", lambda config: {"full_attention": None})
    with pytest.raises(UnsupportedModelError, match="differ from the full forward"):
        TreeModel.attach(model, backend="masked")


def test_the_self_test_reads_the_head_where_texts_end(make_model):
    model, rows = make_model("mistral", **GQA, sliding_window=16), []
    model.lm_head.register_forward_hook(lambda module, args, logits: rows.append(logits.shape[:-1].numel()))
    TreeModel.attach(model, backend="masked")
    assert max(rows) < 16  # the longest text has 18 tokens and more


def test_weights_that_give_nan_are_refused(make_model):
    model = make_model("llama")
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ModelLoadError, match="not finite"):
        TreeModel.attach(model)


def test_an_unknown_path_is_refused(make_model):
    with pytest.raises(ConfigurationError, match=r"'fast'.*'masked'"):
        TreeModel.attach(make_model("llama"), backend="fast")
