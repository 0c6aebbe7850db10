"""A FunctionAgent: the model calls tools, and a call leaves the guard whole and verified, or not at all.

    python examples/llama_index_function_agent.py [model]

The bundled model is too small to call tools and answers in words. Name a larger one as the argument, such as a preset
or ``Qwen/Qwen3-0.6B`` (with a cost model: see docs/llama_index.md).
"""

import asyncio
import sys

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult

from llama_index.llms.inferenceguard import InferenceGuardLLM


def weight_of(thing: str) -> str:
    """The weight of a thing in kilograms."""
    return {"window": "12", "lorry": "7500"}.get(thing, "unknown")


async def main(model: str = "tiny-beaver") -> None:
    llm = InferenceGuardLLM(model=model, seed=3, max_tokens=96)
    agent = FunctionAgent(tools=[weight_of], llm=llm, system_prompt="Use the tools that you have.")
    handler = agent.run(user_msg="How do I clean the window?")
    async for event in handler.stream_events():
        if isinstance(event, AgentStream):
            print(event.delta, end="", flush=True)
        elif isinstance(event, ToolCallResult):
            print(f"\n[{event.tool_name}({event.tool_kwargs}) -> {event.tool_output}]")
    answer = await handler
    print("\nanswer:", answer)
    print("blocked:", answer.raw["inference_guard"]["blocked"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
