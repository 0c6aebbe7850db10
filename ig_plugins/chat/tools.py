"""Tools as callers offer them, and the choice among them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ig_plugins.chat.messages import check_unicode
from ig_plugins.chat.schema import schema_fault
from ig_plugins.errors import PromptError

Tool: TypeAlias = Mapping[str, Any]
ToolChoice: TypeAlias = str | bool | Mapping[str, Any] | None

CALL_START, CALL_END = "<tool_call>", "</tool_call>"


def as_tools(tools: Sequence[Tool] | None) -> tuple[dict[str, Any], ...]:
    """Check tools and bring them to OpenAI's form, ``{"type": "function", "function": {...}}``.

    Args:
        tools: Function dicts, in that form or the bare ``{"name", "description", "parameters"}``.

    Raises:
        PromptError: For a tool without a name, a name given twice, or parameters that are no JSON schema.
    """
    checked = tuple(_tool(tool, index) for index, tool in enumerate(tools or ()))
    names = [tool["function"]["name"] for tool in checked]
    check_unicode(checked, "a tool")
    name, times = Counter(names).most_common(1)[0] if names else ("", 1)
    if times > 1:
        raise PromptError(f"the tool name {name!r} is given twice; give every tool a name of its own")
    return checked


def choose(tool_choice: ToolChoice, tools: Sequence[Tool]) -> str:
    """Bring every way to say a tool choice to ``"auto"``, ``"none"``, ``"any"`` or the name of one tool.

    Understood: None and "auto"; "none" and False; "any", "required" and True; a tool's name; OpenAI's
    ``{"type": "function", "function": {"name": ...}}`` and the shorter ``{"name": ...}`` or ``{"type": "any"}``.
    With a single tool "any" is that tool.

    Args:
        tool_choice: The caller's choice.
        tools: As returned by ``as_tools``.

    Raises:
        PromptError: For a choice that is none of these, or a forced call without tools.
    """
    names = [tool["function"]["name"] for tool in tools]
    choice = _word(tool_choice)
    if choice in names and isinstance(tool_choice, Mapping):
        return choice
    if choice in ("auto", "none"):
        return choice if names else "none"
    if choice == "any" and names:
        return names[0] if len(names) == 1 else "any"
    if choice in names:
        return choice
    allowed = ", ".join(["auto", "none", "any", *names])
    raise PromptError(
        f"tool_choice is {tool_choice!r}; allowed here are {allowed}" + ("" if names else ", as no tools are given")
    )


def _word(tool_choice: ToolChoice) -> str:
    if tool_choice is None:
        return "auto"
    if isinstance(tool_choice, bool):
        return "any" if tool_choice else "none"
    if isinstance(tool_choice, Mapping):
        inner = tool_choice.get("function", tool_choice)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        return _word(str(name or tool_choice.get("type")))
    return "any" if tool_choice == "required" else str(tool_choice)


def _tool(tool: Any, index: int) -> dict[str, Any]:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name.strip():
        raise PromptError(f"tool {index} has no name; give dicts such as {{'name': ..., 'parameters': {{...}}}}")
    parameters = inner.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise PromptError(f"the parameters of tool {name!r} are not the JSON schema of an object")
    if fault := schema_fault(parameters):
        raise PromptError(f"the parameters of tool {name!r} are not a JSON schema that can be checked: {fault}")
    function = {**inner, "description": str(inner.get("description") or ""), "parameters": dict(parameters)}
    return {"type": "function", "function": function}
