"""Which tokens a decoded text does not show."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Every token that decoding with ``skip_special_tokens=True`` leaves out.

    ``all_special_tokens`` alone is what ``tokenizer_config.json`` names. The backend decides what is left out, and
    a ``tokenizer.json`` may mark more tokens special; so each added token is also decoded once.

    Args:
        tokenizer: The policy's. A token may be in the set although its tokenizer shows it, never the other way round.
    """
    named = {str(token) for token in tokenizer.all_special_tokens}
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(
        named | {str(token) for index, token in added if token.special or not _shown(tokenizer, index)}
    ) - {""}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of ``special_tokens``."""
    return frozenset(tokenizer.convert_tokens_to_ids(list(special_tokens(tokenizer))))


def hides(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether some of a mark may be missing where it is decoded: it holds a special token, or is part of one."""
    return bool(text) and any(token in text or text in token for token in special_tokens(tokenizer))


def hidden_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> frozenset[int]:
    """Those of some tokens that the tokenizer does leave out."""
    return frozenset(index for index in special_ids(tokenizer) & set(ids) if not _shown(tokenizer, index))


def _shown(tokenizer: PreTrainedTokenizerBase, index: int) -> bool:
    return bool(tokenizer.decode([index], skip_special_tokens=True, clean_up_tokenization_spaces=False))
