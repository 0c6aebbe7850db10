"""What a model without a tool-aware template is told about its tools.

Small models copy what they see. So each tool is shown as a call of its own, with its own arguments' names and a value
of each one's kind, and not as a JSON schema, of which they write pieces back. Measured on SmolLM2-135M by
``tests/ig_plugins/chat/bench_wording.py``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ig_plugins.chat.tools import CALL_END, CALL_START, Tool

_SHOWN = frozenset({"type", "properties", "required", "description", "title", "default", "enum", "items", "$schema"})
_DEPTH = 4


BEHIND_RESULT = "Say this in a sentence that answers my question."
"""What stands behind a tool's result that is to be answered: small models else write of tools, or call one again."""


def instruction(tools: Sequence[Tool], choice: str, *, masked: bool = False, answered: bool = False) -> str:
    """The words put before a conversation.

    Args:
        tools: As returned by ``as_tools``.
        choice: As returned by ``choose``; not "none".
        masked: A forced call is held to its schema while it is sampled.
        answered: The conversation ends with a tool's result.
    """
    forced = choice not in ("auto", "any")
    offered = [tool for tool in tools if not forced or tool["function"]["name"] == choice]
    if masked and choice != "auto":
        return _by_schema([tool["function"] for tool in offered])
    listed = "\n\n".join(_shown(tool["function"]) for tool in offered)
    if choice == "auto" and answered:
        end = "The tools have been called. Answer in plain words with their results."
    elif choice == "auto":
        end = "Call a tool if it helps: write its line with the values of the request. Else answer in plain words."
    else:
        names = " or ".join(tool["function"]["name"] for tool in offered)
        end = f"Now call {names}: write its line with the values of the request, and nothing else."
    return f"You have these tools:\n\n{listed}\n\n{end}"


def _by_schema(functions: Sequence[Mapping[str, Any]]) -> str:
    """What a call that can only fit is asked for with."""
    schemas = [json.dumps(function["parameters"], ensure_ascii=False) for function in functions]
    told = [f"{function['name']}: {function['description']}".rstrip(": ") for function in functions]
    if len(functions) == 1:
        return (
            f"Answer with one call of {told[0]} Write its arguments as one JSON object and nothing else. "
            f"They must match this JSON schema: {schemas[0]}"
        )
    listed = "\n\n".join(
        f"{name} JSON schema of its arguments: {schema}" for name, schema in zip(told, schemas, strict=True)
    )
    return (
        f"You have these tools:\n\n{listed}\n\n"
        "Answer with one call of the tool that fits the request, as one JSON object, and nothing else."
    )


def _shown(function: Mapping[str, Any]) -> str:
    """One tool: what it does, its arguments, and a call."""
    parameters = function["parameters"]
    call = json.dumps({"name": function["name"], "arguments": example(parameters)}, ensure_ascii=False)
    lines = [f"{function['name']}: {_described(function)}".rstrip(": ")]
    properties = parameters.get("properties") or {}
    needed = parameters.get("required") or ()
    lines += [_argument(name, part, needed=name in needed) for name, part in properties.items() if _worth_a_line(part)]
    if _further(parameters):
        lines.append(f"JSON schema: {json.dumps(parameters, ensure_ascii=False)}")
    return "\n".join([*lines, f"{CALL_START}{call}{CALL_END}"])


def _described(function: Mapping[str, Any]) -> str:
    """A tool's description, without a first line that is its signature: the call shows the arguments already."""
    first, _, rest = str(function["description"]).partition("\n")
    return rest if rest and first.startswith(f"{function['name']}(") else str(function["description"])


def _worth_a_line(part: Any) -> bool:
    return isinstance(part, Mapping) and bool(part.get("description") or part.get("enum"))


def _argument(name: str, part: Mapping[str, Any], *, needed: bool) -> str:
    allowed = " or ".join(json.dumps(value, ensure_ascii=False) for value in part.get("enum") or ())
    told = [str(part.get("description") or ""), f"one of {allowed}" if allowed else "", "" if needed else "optional"]
    return f"- {name}: {', '.join(word for word in told if word)}"


def _further(schema: Any, depth: int = 0) -> bool:
    """Whether a schema says more than an example of it shows."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return depth > _DEPTH
    parts = [*(schema.get("properties") or {}).values(), schema.get("items")]
    return not set(schema) <= _SHOWN or any(_further(part, depth + 1) for part in parts)


def example(schema: Any, name: str = "value", depth: int = 0) -> Any:
    """A value of a schema, with names of arguments where words are to stand.

    Args:
        schema: A JSON schema.
        name: What the value is called.
        depth: How deep it stands in the whole value.
    """
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return "..."
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    kind = next((each for each in kind if each != "null"), None) if isinstance(kind, list) else kind
    if kind == "object" or (kind is None and "properties" in schema):
        return {key: example(part, key, depth + 1) for key, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [example(schema.get("items"), name.removesuffix("s"), depth + 1)]
    return {"integer": 0, "number": 0, "boolean": True, "null": None}.get(str(kind), "...")
