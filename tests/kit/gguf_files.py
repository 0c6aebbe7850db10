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


def write_bundled_gguf(path: Path, name: str = "tiny-alpaca") -> Path:
    """Writes a bundled policy as llama.cpp's converter would, in float32: the same model for another engine.

    Args:
        path: Where.
        name: The policy.
    """
    import json

    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    from critic_models import bundled

    folder = Path(bundled.path(name))
    config = json.loads((folder / "config.json").read_text())
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(words["model"]["vocab"], key=words["model"]["vocab"].get)
    special = {each["content"] for each in words["added_tokens"]}
    heads = config["num_attention_heads"]
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    merges = words["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    }  # fmt: skip
    for key, tensor in load_file(folder / "model.safetensors").items():
        part = key.removesuffix(".weight")
        block = ""
        if part.startswith("model.layers."):
            _, _, layer, part = part.split(".", 3)
            block = f"blk.{layer}."
        values = tensor.astype(np.float32)
        if names[part] in ("attn_q", "attn_k"):  # llama.cpp rotates neighbours, transformers the two halves of a head
            pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
            values = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
        writer.add_tensor(f"{block}{names[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
