"""A scripted policy with the skill that tiny models lack: it reads the tools in its prompt and calls one of them.

For the ChatML template of ``tests.kit.tokenizer``. Its rules are simple and fixed, so that a test knows what to expect:
a question gets a call of the forced tool, else of the first tool it names, else of the first one; after a tool's result
it answers in words; a JSON schema in the system message gets an object of that schema.
"""

import json
import re
from typing import Any

CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'


def tool_caller(prompt: str) -> dict[str, float]:
    """The one answer (with probability 1) to a decoded prompt; starts where the prompt's forced opening ends."""
    turns = re.findall(
        r"(?:^|\n)(system|user|assistant|tool)\n(.*?)(?=\n(?:system|user|assistant|tool)\n|$)", prompt, re.S
    )
    role, question = next(((r, t) for r, t in reversed(turns) if r in ("user", "tool")), ("user", prompt))
    opening = turns[-1][1].lstrip("\n") if turns and turns[-1][0] == "assistant" else ""
    tools = _tools(prompt)
    if role == "tool" and not opening:
        return {f"The tool said {question.strip()}": 1.0}
    if tools:
        return {_rest(_call(tools, question, opening), opening): 1.0}
    if schema := _schema(prompt):
        return {json.dumps(_arguments(schema, question), ensure_ascii=False): 1.0}
    if "JSON" in question:
        return {json.dumps(dict.fromkeys(re.findall(r"'(\w+)'", question), "meow")): 1.0}
    return {"I heard you, and I have no tools.": 1.0}


def _tools(prompt: str) -> list[dict[str, Any]]:
    found = []
    for line in prompt.splitlines():
        if line.startswith('{"type": "function"'):
            found.append(json.loads(line)["function"])
    return found


def _call(tools: list[dict[str, Any]], question: str, opening: str) -> str:
    named = re.search(r'"name": "([^"]+)"', opening)
    wanted = [tool for tool in tools if named and tool["name"] == named[1]]
    wanted = wanted or [tool for tool in tools if tool["name"] in question] or tools
    return CALL % (wanted[0]["name"], json.dumps(_arguments(wanted[0]["parameters"], question), ensure_ascii=False))


def _rest(call: str, opening: str) -> str:
    """What is left to say when the answer was forced to start with ``opening``, whatever its white space."""
    told, at = re.sub(r"\s", "", opening), 0
    while told:
        if not call[at].isspace():
            told = told[1:]
        at += 1
    return call[at:]


def _schema(prompt: str) -> dict[str, Any] | None:
    at = prompt.find("JSON schema: ")
    return json.JSONDecoder().raw_decode(prompt, at + len("JSON schema: "))[0] if at >= 0 else None


def _arguments(schema: dict[str, Any], question: str) -> dict[str, Any]:
    numbers = iter(re.findall(r"-?\d+", question) + ["0"] * 9)
    quoted = iter(re.findall(r"'([^']+)'", question) + [question.strip().rstrip("?.").split()[-1]] * 9)
    return {
        name: int(next(numbers)) if part.get("type") in ("integer", "number") else next(quoted)
        for name, part in schema.get("properties", {}).items()
    }
