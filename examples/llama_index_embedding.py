"""Two embeddings that need no download: hashed words, so texts that share words are near each other; and a real one."""

import math
import re
import zlib
from typing import Any

from llama_index.core.embeddings import BaseEmbedding

COMMON = frozenset({"a", "an", "and", "are", "do", "for", "how", "i", "in", "is", "it", "my", "of", "the", "to", "you"})


class WordEmbedding(BaseEmbedding):
    """Counts a text's words in 512 hashed slots; good enough to find the right page among a few hundred."""

    slots: int = 512

    def _get_text_embedding(self, text: str) -> list[float]:
        counts = [0.0] * self.slots
        for word in re.findall(r"[a-z]+", text.lower()):
            if word not in COMMON:
                counts[zlib.crc32(word.rstrip("s").encode()) % self.slots] += 1.0
        length = math.sqrt(sum(count * count for count in counts)) or 1.0
        return [count / length for count in counts]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    def __init__(self, **data: Any) -> None:
        super().__init__(model_name="hashed-words", **data)


class MiniLMEmbedding(BaseEmbedding):
    """all-MiniLM-L6-v2, see `minilm.py`."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        from minilm import embed

        return embed(texts)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)
