"""Small random checkpoints in the public Safe-RLHF layout, written by hand and not by the code under test."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

torch.set_num_threads(1)
BODY = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 98,
}  # fmt: skip


def _write_checkpoint(
    folder: Path, *, seed: int = 0, bias: bool = True, stats=(0.7, 2.5), rank: int = 1, extra=None, **config
) -> dict[str, torch.Tensor]:
    """Writes config.json and model.safetensors; returns the tensors."""
    torch.manual_seed(seed)
    body = LlamaModel(LlamaConfig(**BODY))
    tensors = {f"model.{name}": tensor.clone() for name, tensor in body.state_dict().items()}
    tensors["score_head.weight"] = torch.randn(1, 32)
    if bias:
        tensors["score_head.bias"] = torch.randn(1)
    shape = (1,) * rank
    if stats is not None:
        tensors["normalizer.mean"] = torch.full(shape, stats[0])
        tensors["normalizer.var"] = torch.full(shape, stats[1])
        tensors["normalizer.count"] = torch.full((1,), 12, dtype=torch.long)
    tensors |= extra or {}
    raw = {
        **LlamaConfig(**BODY).to_dict(), "architectures": ["LlamaForScore"], "bias": False, "score_dim": 1,
        "score_bias": bias, "score_type": "cost", "do_normalize": False, "normalizer_type": "RunningMeanStd",
        "momentum": None, "mean": None, "var": None, **config,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.fixture
def body() -> dict[str, int]:
    """Arguments of the tiny Llama body."""
    return dict(BODY)


@pytest.fixture
def write_checkpoint():
    """Function that writes a score model into a folder and returns its tensors."""
    return _write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    _write_checkpoint(tmp_path / "cost")
    return tmp_path / "cost"


@pytest.fixture(scope="session")
def byte_tokenizer():
    """Function that makes a tokenizer of bytes with BOS, EOS, PAD and one turn marker; 262 ids."""

    def make(chat_template: str | None = None, **options) -> PreTrainedTokenizerFast:
        specials = ["<s>", "</s>", "<pad>", "<|turn|>"]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*specials, *alphabet])}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(specials)
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <|turn|> $B:1", special_tokens=[("<s>", 0), ("<|turn|>", 3)]
        )
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{**names, **options})
        tokenizer.chat_template = chat_template
        return tokenizer

    return make
