"""A query engine: a vector index finds pages, the guarded model answers from them.

python examples/llama_index_query_engine.py
"""

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.prompts import PromptTemplate
from llama_index_embedding import WordEmbedding

from llama_index.llms.inferenceguard import InferenceGuardLLM

PAGES = [
    "The window. Warm water, a little vinegar and a dry cloth are all that it needs.",
    "The letter. It belongs to the person whose name is on it.",
    "The medicine. It stands in a closed cupboard, out of the reach of children.",
    "The kettle. Fill it with fresh water and never leave it alone.",
]
# The bundled model knows questions and answers only, so the page comes first and the question last. A larger model
# does well with LlamaIndex's own template: leave text_qa_template out.
TEMPLATE = PromptTemplate("{context_str}\n\n{query_str}")


def main() -> None:
    # These two lines are all that a pipeline needs. All engines, agents and chat engines made after them are guarded.
    Settings.llm = InferenceGuardLLM(model="tiny-beaver", seed=1)
    Settings.embed_model = WordEmbedding()

    index = VectorStoreIndex.from_documents([Document(text=page) for page in PAGES])
    engine = index.as_query_engine(similarity_top_k=1, text_qa_template=TEMPLATE)
    response = engine.query("How do I clean the window?")
    print("found:   ", response.source_nodes[0].text)
    print("answered:", response)

    # The same, streamed. Only text that the cost model has passed arrives here.
    streaming = index.as_query_engine(similarity_top_k=1, text_qa_template=TEMPLATE, streaming=True)
    print("streamed: ", end="")
    for piece in streaming.query("How do I clean the window?").response_gen:
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
