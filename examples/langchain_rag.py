"""Retrieval with a vector store in memory, and a guarded model that answers from what was found.

A small embedding of its own keeps the example offline: words hashed into a vector. Put in any other.

    python examples/langchain_rag.py
"""

import math
import re
import zlib

from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_inferenceguard import InferenceGuardLLM

NOTES = [
    "The kettle needs electric power.",
    "The jigsaw has a fine blade, and a light on its front.",
    "The medal is made of silver.",
    "The scooter has one brake.",
]


class HashedWords(Embeddings):
    """Each longer word adds to one of 256 places; texts that share words point the same way."""

    def embed_query(self, text: str) -> list[float]:  # noqa: D102  (see the class)
        vector = [0.0] * 256
        for word in re.findall(r"\w{4,}", text.lower()):
            vector[zlib.crc32(word.encode()) % 256] += 1.0
        length = math.sqrt(sum(part * part for part in vector)) or 1.0
        return [part / length for part in vector]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:  # noqa: D102
        return [self.embed_query(text) for text in texts]


def main() -> None:
    store = InMemoryVectorStore.from_texts(NOTES, HashedWords())
    retriever = store.as_retriever(search_kwargs={"k": 1})
    # Retrieved text is input, not output: it spends no budget, but what the model makes of it is judged.
    prompt = ChatPromptTemplate.from_messages([("system", "Use this note: {note}"), ("human", "{question}")])
    chain = (
        {"note": retriever | (lambda found: found[0].page_content), "question": RunnablePassthrough()}
        | prompt
        | InferenceGuardLLM(model="tiny-beaver", seed=1)
        | StrOutputParser()
    )
    for question in ("How do I use the jigsaw after dark?", "Could you help me to store the medal for the winter?"):
        print(f"{question}\n  found: {retriever.invoke(question)[0].page_content}\n  {chain.invoke(question)}\n")


if __name__ == "__main__":
    main()
