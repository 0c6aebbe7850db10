"""A model's context is found by one rule, wherever the configuration comes from."""

import json

import pytest
from transformers import GPT2Config, LlamaConfig

from critic_models.lengths import context_of
from ig_plugins.guard.model_info import model_context

CONFIGS = {
    "llama": (LlamaConfig(max_position_embeddings=77), 77),
    "gpt2": (GPT2Config(n_positions=64), 64),
    "seq_length": ({"seq_length": 99}, 99),
    "the text's part": ({"max_position_embeddings": 7, "text_config": {"max_position_embeddings": 55}}, 55),
    "a part that does not say": ({"max_position_embeddings": 7, "text_config": {}}, 7),
    "a flag": ({"max_position_embeddings": True}, None),
    "zero": ({"max_position_embeddings": 0, "n_positions": 32}, 32),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_in_memory_and_in_a_file_say_the_same(kind, tmp_path):
    config, expected = CONFIGS[kind]
    assert context_of(config) == expected
    raw = config if isinstance(config, dict) else config.to_dict()
    assert context_of(raw) == expected
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert model_context(str(tmp_path)) == expected
