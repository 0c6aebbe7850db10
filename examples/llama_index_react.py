"""A ReAct agent: it writes its actions as text. A blocked text is replaced by the refusal, so nothing of it is run.

    python examples/llama_index_react.py [model]

The bundled model does not know the ReAct format and answers at once, which ReAct takes for the final answer.
"""

import asyncio
import sys

from llama_index.core.agent.workflow import ReActAgent, ToolCallResult

from llama_index.llms.inferenceguard import InferenceGuardLLM


def weight_of(thing: str) -> str:
    """The weight of a thing in kilograms."""
    return {"window": "12", "lorry": "7500"}.get(thing, "unknown")


async def main(model: str = "tiny-beaver") -> None:
    llm = InferenceGuardLLM(model=model, seed=4, max_tokens=96)
    # An answer that max_tokens cuts in the middle of an action is not blocked, and ReAct reads actions leniently:
    # a stop string keeps the model from writing the tool's observation itself.
    llm.stop = ["Observation:"]
    handler = ReActAgent(tools=[weight_of], llm=llm).run(user_msg="How do I clean the window?", max_iterations=3)
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"[{event.tool_name}({event.tool_kwargs}) -> {event.tool_output}]")
    answer = await handler
    print("answer:", answer)
    print("blocked:", answer.raw["inference_guard"]["blocked"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
