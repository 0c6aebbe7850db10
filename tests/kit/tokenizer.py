"""A real, tiny tokenizer: bytes, five special tokens, and a ChatML template that knows tools."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, IM_START, IM_END = "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"

CHATML = (
    "{%- if tools %}{{ '<|im_start|>system\nYou can call:\n' }}"
    "{%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{%- endfor %}{{ '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] %}{{ message['content'] }}{%- endif %}"
    "{%- for call in message.get('tool_calls') or [] %}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{%- endfor %}"
    "{{ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def byte_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte, so that any text round-trips: ids 0-4 are special, then the 256 bytes (V = 261).

    Args:
        chat: With the ChatML template and ``<|im_end|>`` as the end of a turn; otherwise no template and ``</s>``.
    """
    specials = [PAD, BOS, EOS, IM_START, IM_END]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=IM_END if chat else EOS,
        additional_special_tokens=[IM_START, IM_END] if not chat else [IM_START, EOS],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = CHATML
    return tokenizer
