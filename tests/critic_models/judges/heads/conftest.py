"""A random sentence encoder in a folder."""

import pytest
import torch
from transformers import BertConfig, BertModel


@pytest.fixture
def encoder_folder(tmp_path, byte_tokenizer):
    """Function that writes an encoder with random weights of a seed; returns its folder."""

    def write(seed: int = 0):
        torch.manual_seed(seed)
        folder = tmp_path / f"encoder{seed}"
        config = BertConfig(
            vocab_size=262, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=64,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return str(folder)

    return write
