"""A chat engine that streams: every piece has passed the cost model before it is shown.

python examples/llama_index_chat_stream.py
"""

import asyncio

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine

from llama_index.llms.inferenceguard import InferenceGuardLLM

QUESTIONS = ["How do I clean the window?", "How do I take the lorry through the city at night?"]


async def main() -> None:
    llm = InferenceGuardLLM(model="tiny-beaver", seed=2)
    chat = SimpleChatEngine.from_defaults(llm=llm)
    for question in QUESTIONS:
        print("you:  ", question)
        print("model: ", end="")
        streaming = await chat.astream_chat(question)
        async for piece in streaming.async_response_gen():
            print(piece, end="", flush=True)
        print("\n")

    # The LLM itself says more: the last item of a stream carries the guard's report.
    async for item in await llm.astream_chat([ChatMessage(role="user", content=QUESTIONS[1])]):
        last = item
    report = last.raw["inference_guard"]
    print("blocked:", report["blocked"], "| cost:", report["cost"], "| budget left:", report["safety_state"])
    print("tokens: ", last.raw["usage"], "| behind decoding by at most:", report["lag"])


if __name__ == "__main__":
    asyncio.run(main())
