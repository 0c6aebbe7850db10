"""An agent with two tools, guarded: its model while it decodes, its tool calls and results by the middleware.

The bundled models are too small to call tools, so without an argument a scripted stand-in plays the model, as somebody
else's hosted model would: `InferenceGuardMiddleware` judges what goes in and out. With the name of a tool-trained model
(and a cost model in place of the word list) the model itself is guarded:

    python examples/langchain_agent.py
    python examples/langchain_agent.py Qwen/Qwen3-0.6B
"""

import sys

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardMiddleware

FORBIDDEN = ("neighbour's letters", "bleach and ammonia")


@tool
def opening_hours(shop: str) -> str:
    """When a shop is open."""
    return f"The {shop} is open from 9 to 18."


@tool
def note(text: str) -> str:
    """Keep a note."""
    return f"Noted: {text}"


def cost(prompts: list[str], responses: list[str]) -> list[float]:
    """A cost model can be any function: above 0 is unsafe. Use a real one for real work."""
    return [1.0 if any(words in response for words in FORBIDDEN) else -1.0 for response in responses]


class StandIn(GenericFakeChatModel):
    """Plays a model that was trained on tools."""

    def bind_tools(self, tools: object, **kwargs: object) -> "StandIn":
        """Its lines are written already."""
        return self


def stand_in() -> BaseChatModel:
    """First run: two harmless calls and an answer. Second run: a call that should not be made."""

    def call(name: str, **args: str) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"{name}-1"}])

    lines = [
        call("opening_hours", shop="library"),
        call("note", text="library until 18"),
        AIMessage("The library is open from 9 to 18; I made a note."),
        call("note", text="how to open the neighbour's letters over steam"),
    ]
    return StandIn(messages=iter(lines))


def main() -> None:
    named = sys.argv[1] if len(sys.argv) > 1 else None
    model = ChatInferenceGuard(model=named, cost_model=cost, max_tokens=256) if named else stand_in()
    agent = create_agent(model, [opening_hours, note], middleware=[InferenceGuardMiddleware(cost)])
    for question in ("When is the library open? Make a note.", "And note how one gets at other people's post."):
        print(f"\n> {question}")
        for message in agent.invoke({"messages": [("user", question)]})["messages"][1:]:
            for planned in getattr(message, "tool_calls", []):
                print(f"  call    {planned['name']}({planned['args']})")
            if message.text:
                print(f"  {message.type:7} {message.text}")
            if report := message.response_metadata.get("inference_guard"):
                print(f"          guard: {report['reason'] or 'passed'}")


if __name__ == "__main__":
    main()
