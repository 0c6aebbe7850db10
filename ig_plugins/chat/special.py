"""Which tokens a decoded text does not show."""

from collections.abc import Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

_TURNS = (("user", "x"), ("assistant", "alphaquebec"), ("user", "bravozulu"))


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


def special_in(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> frozenset[int]:
    """The first special token in each of some texts that hold one."""
    tokens = special_tokens(tokenizer) if texts else ()
    found = []
    for text in texts:
        places = [(text.index(token), -len(token), token) for token in tokens if token in text]
        found += [min(places)[2]] if places else []
    return frozenset(tokenizer.convert_tokens_to_ids(found))


def turn_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The special tokens that a chat template writes between an answer and the user's next words.

    An answer that goes on with one of them has ended: what follows is an invented turn, whose marks no text shows.
    None where the model itself writes special tokens before its words, as those may be the same ones.
    """
    question, first, second = ({"role": role, "content": word} for role, word in _TURNS)

    def render(*turns: dict[str, str], prompt: bool = False) -> str:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=prompt))

    def special(text: str) -> frozenset[int]:
        return special_ids(tokenizer) & frozenset(tokenizer.encode(text, add_special_tokens=False))

    if not tokenizer.chat_template:
        return frozenset()
    try:
        prompt, text = render(question, prompt=True), render(question, first, second)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError):
        return frozenset()
    head, _, rest = text.partition(first["content"])
    between, found, _ = rest.partition(second["content"])
    shared = next((n for n, pair in enumerate(zip(prompt, head, strict=False)) if pair[0] != pair[1]), len(prompt))
    return special(between) if found and not special(head[shared:]) else frozenset()


def hides(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether some of a mark may be missing where it is decoded: it holds a special token, or is part of one."""
    return bool(text) and any(token in text or text in token for token in special_tokens(tokenizer))


def hidden_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> frozenset[int]:
    """Those of some tokens that the tokenizer does leave out."""
    return frozenset(index for index in special_ids(tokenizer) & set(ids) if not _shown(tokenizer, index))


def _shown(tokenizer: PreTrainedTokenizerBase, index: int) -> bool:
    return bool(tokenizer.decode([index], skip_special_tokens=True, clean_up_tokenization_spaces=False))
