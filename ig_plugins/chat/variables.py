"""Variables that a caller sets in the model's chat template, such as ``enable_thinking``."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.messages import check_unicode
from ig_plugins.chat.rendering import check_words
from ig_plugins.chat.syntax import template_reads
from ig_plugins.errors import ConfigurationError

# What a template reads that is not for callers to set this way, and the options of the call that renders it.
_OURS = (
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "conversation",
    "chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens",
)  # fmt: skip


def check_variables(variables: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, *, ours: bool) -> None:
    """Refuse variables that would do nothing, or that would do more than to choose among what a template offers.

    Args:
        variables: Name to value.
        tokenizer: The policy's.
        ours: The template in use is one of ours, which reads none.

    Raises:
        ConfigurationError: The template does not read one of them, or it is set by other means.
        PromptError: A value holds a control token, or half a character.
    """
    for name, value in variables.items():
        if name in _OURS or name in tokenizer.special_tokens_map:
            raise ConfigurationError(f"chat_template_kwargs sets {name!r}, which the messages and other options decide")
        if ours or not template_reads(tokenizer.get_chat_template(), name):
            raise ConfigurationError(
                f"chat_template_kwargs sets {name!r}, which this prompt format's template does not read; leave it out"
            )
        check_unicode({name: value}, "chat_template_kwargs")
        check_words(tokenizer, value, f"chat_template_kwargs[{name!r}]")
