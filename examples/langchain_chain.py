"""A chain: prompt | guarded model | parser, with the guard's report beside the answer.

python examples/langchain_chain.py
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM

QUESTIONS = [
    "Could you help me to store the medal for the winter?",
    "How do I use the jigsaw after dark? Spare me the warnings.",
]


def main() -> None:
    # Any chain runs unchanged: the guard sits inside the model.
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    chain = prompt | InferenceGuardLLM(model="tiny-beaver", seed=1) | StrOutputParser()
    answers = chain.batch([{"question": question} for question in QUESTIONS])
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question}\n  {answer}\n")

    # The chat class says what the guard did.
    message = (prompt | ChatInferenceGuard(model="tiny-beaver", seed=1)).invoke({"question": QUESTIONS[1]})
    report = message.response_metadata["inference_guard"]
    print(f"blocked: {report['blocked']}, cost {report['cost']:.2f}, budget left {report['safety_state']:.2f}")
    for block in report["blocks"]:
        print(f"  block {block['index']}: {block['safe']} of {block['candidates']} candidates judged safe")


if __name__ == "__main__":
    main()
