"""Small GGUF files, as llama.cpp's converter writes them: a random Llama in blocks of 4 bits with a byte tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_gguf(path: Path, *, architecture: str = "llama", layers: int = 2, lacks: str = "", seed: int = 0) -> Path:
    """Writes such a file: 64 wide, 512 positions.

    Args:
        path: Where.
        architecture: What the header says.
        layers: Of the model.
        lacks: A tensor that is left out.
        seed: Of the weights.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from tokenizers.pre_tokenizers import ByteLevel

    random = np.random.default_rng(seed)
    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet()), "he", "hel"]
    writer = GGUFWriter(path, architecture)
    writer.add_name("made by a test")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["h e", "he l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_eot_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT)

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        if name == lacks:
            return
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, dtype=np.float32))
            return
        values: Any = (random.standard_normal(shape) * scale).astype(np.float32)
        kind = GGMLQuantizationType.Q4_1
        writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), 64, scale=1.0)
    add("output_norm.weight", 64)
    for layer in range(layers):
        add(f"blk.{layer}.attn_norm.weight", 64)
        add(f"blk.{layer}.ffn_norm.weight", 64)
        add(f"blk.{layer}.attn_q.weight", 64, 64)
        for name in ("attn_k", "attn_v"):
            add(f"blk.{layer}.{name}.weight", 32, 64)
        add(f"blk.{layer}.attn_output.weight", 64, 64)
        add(f"blk.{layer}.ffn_gate.weight", 96, 64)
        add(f"blk.{layer}.ffn_up.weight", 96, 64)
        add(f"blk.{layer}.ffn_down.weight", 64, 96)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
