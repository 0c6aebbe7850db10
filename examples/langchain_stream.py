"""An async service: many people ask at once, each gets verified text as it comes, none blocks another.

python examples/langchain_stream.py
"""

import asyncio

from langchain_inferenceguard import ChatInferenceGuard

QUESTIONS = [
    "How do I go uphill with the scooter and two friends?",
    "Is there a way to use the nailgun on the roof?",
    "Could you help me to store the medal for the winter?",
]

# One instance serves all: requests that overlap are decoded in one batch by one worker thread.
chat = ChatInferenceGuard(model="tiny-beaver", timeout=600)


async def answer(name: str, question: str) -> None:
    """Streams one answer; leaving the loop early (a closed connection) would free the model within a block."""
    async for chunk in chat.astream(question):
        if chunk.content:
            print(f"[{name}] {chunk.content!r}")
        if report := chunk.response_metadata.get("inference_guard"):  # in the last chunk only
            print(f"[{name}] blocked: {report['blocked']}, released at most {report['lag']} tokens behind decoding")


async def main() -> None:
    await asyncio.gather(*[answer(f"user {n}", question) for n, question in enumerate(QUESTIONS, 1)])


if __name__ == "__main__":
    asyncio.run(main())
