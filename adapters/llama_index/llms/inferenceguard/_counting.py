"""With which tokenizer LlamaIndex counts: one for the process, which memories and splitters keep from their start."""

from dataclasses import dataclass
from typing import Any, cast

import llama_index.core
from llama_index.core.utils import get_tokenizer, set_global_tokenizer
from typing_extensions import Self


@dataclass(frozen=True)
class Encoding:
    """A model's tokens of a text.

    A memory is stored with its agent's context, and so is what it counts with. A tokenizer has megabytes, so that what
    is stored is a name: where it is loaded, LlamaIndex counts as it does there.
    """

    tokenizer: Any

    def __call__(self, text: str) -> list[int]:
        """The tokens, without special ones around them."""
        return cast(list[int], self.tokenizer.encode(text, add_special_tokens=False))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return get_tokenizer, ()


def count_with(tokenizer: Any) -> None:
    """Has LlamaIndex count with this tokenizer from now on, where nobody has chosen another."""
    if _nobodys(llama_index.core.global_tokenizer):
        set_global_tokenizer(Encoding(tokenizer))


def _nobodys(tokenizer: Any) -> bool:
    """Whether nobody chose this tokenizer: there is none yet, or the one of OpenAI's that LlamaIndex falls back to."""
    encoding = getattr(getattr(tokenizer, "func", None), "__self__", None)
    fallback = type(encoding).__module__.startswith("tiktoken") and tokenizer.keywords == {"allowed_special": "all"}
    return tokenizer is None or fallback
