"""Structured output: what is asked of the model, what it is held to, and what is refused afterwards.

Three ways to the same object. ``function_calling`` forces one tool call; ``json_schema`` and ``json_mode`` ask for a
JSON text, with the schema written into the system message or left to the user's own words. In all of them tokens that
would not fit are masked while they are sampled. Whatever the way, a blocked answer, a cut-off one and one that does
not fit raise: none of them may look like a result.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.tools import StructuredTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import is_basemodel_subclass

from ig_plugins.chat.schema import schema_problem
from ig_plugins.errors import ConfigurationError, GuardBlockedError
from ig_plugins.grammar import installed, json_schema_of
from ig_plugins.guard.result import why_no_call

METHODS = ("function_calling", "json_schema", "json_mode")


def structured(
    bind_tools: Callable[..., Runnable[Any, AIMessage]],
    bind: Callable[..., Runnable[Any, AIMessage]],
    schema: dict[str, Any] | type,
    *,
    method: str,
    include_raw: bool,
    strict: bool | None,
) -> Runnable[Any, Any]:
    """Builds model | gate | parser (| check) for one schema and method."""
    if method not in METHODS:
        raise ConfigurationError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    pydantic_class: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    parser: Runnable[Any, Any]
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        model = bind_tools([schema], tool_choice=name, strict=strict, ls_structured_output_format=told)
        parser = (
            PydanticToolsParser(tools=[pydantic_class], first_tool_only=True)
            if pydantic_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
        gate = RunnableLambda(usable_call)
    else:
        wish = _response_format(schema, method)
        model = bind(response_format=wish, ls_structured_output_format=told, **_held_to(schema))
        parser = PydanticOutputParser(pydantic_object=pydantic_class) if pydantic_class else JsonOutputParser()
        gate = RunnableLambda(usable_text)
    parse = gate | parser
    if strict and not pydantic_class:
        parse = parse | RunnableLambda(_fits(convert_to_json_schema(schema)))
    if not include_raw:
        return model | parse
    assign = RunnablePassthrough.assign(parsed=itemgetter("raw") | parse, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | assign.with_fallbacks([failed], exception_key="parsing_error")


def with_instruction(messages: list[dict[str, Any]], response_format: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation with the wish for JSON as a system message.

    Args:
        messages: The conversation, as the guard takes it.
        response_format: OpenAI's ``{"type": "json_schema", "json_schema": {"schema": ...}}``, or
            ``{"type": "json_object"}``, for which the words are the caller's business and nothing is added.

    Raises:
        ConfigurationError: It is another one.
    """
    if response_format.get("type") == "json_object":
        return messages
    schema = json_schema_of(response_format)
    if schema is None:
        return messages
    wish = (
        "Answer with one JSON object and nothing else, no code fence around it. "
        f"It must match this JSON schema: {json.dumps(schema, ensure_ascii=False)}"
    )
    return [{"role": "system", "content": wish}, *messages]


def stands_for_object(tool: Any) -> bool:
    """Whether a tool cannot be run: `create_agent` offers the schema of its `response_format` as such a one."""
    return isinstance(tool, StructuredTool) and tool.func is None and tool.coroutine is None


def held_to(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """The guard's option that holds an answer to a ``response_format``.

    What no mask can hold tokens to is not refused: whoever reads the object checks it.
    """
    schema = json_schema_of(response_format)
    return _held_to(schema) if schema is not None else {}


def usable_call(message: AIMessage) -> AIMessage:
    """Lets an answer pass that made its call."""
    _refuse_blocked(message)
    if not message.tool_calls:
        report = message.response_metadata.get("inference_guard") or {}
        raise OutputParserException(
            f"there is no object to return: {why_no_call(report)}",
            llm_output="".join(call["args"] or "" for call in message.invalid_tool_calls) or message.text,
        )
    return message


def usable_text(message: AIMessage) -> AIMessage:
    """Lets a text pass that is JSON to its end: LangChain's JSON parser would complete a cut-off one.

    A stop string may cut it as well as ``max_tokens``.
    """
    usable_answer(message)
    try:
        parse_json_markdown(message.text, parser=partial(json.loads, strict=False))
    except (ValueError, RecursionError) as error:
        raise OutputParserException(
            f"the answer is not JSON, or was cut off by a stop string ({type(error).__name__})", llm_output=message.text
        ) from error
    return message


def usable_answer(message: AIMessage) -> AIMessage:
    """Lets an answer pass that calls a tool, or came to its own end."""
    _refuse_blocked(message)
    if not message.tool_calls and message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException("the JSON answer was cut off by max_tokens; raise max_tokens")
    return message


def _refuse_blocked(message: AIMessage) -> None:
    report = message.response_metadata.get("inference_guard") or {}
    if report.get("blocked"):
        raise GuardBlockedError(
            f"the guard blocked the answer, so there is no object to return ({report.get('reason')})", report=report
        )


def _response_format(schema: dict[str, Any] | type, method: str) -> dict[str, Any]:
    if method == "json_mode":
        return {"type": "json_object"}
    plain = convert_to_json_schema(schema)
    return {"type": "json_schema", "json_schema": {"name": plain.get("title", "answer"), "schema": plain}}


def _held_to(schema: dict[str, Any] | type) -> dict[str, Any]:
    if not installed():
        return {}
    is_plain = isinstance(schema, dict) and schema.get("type") != "function"  # OpenAI's form of a tool
    plain: dict[str, Any] = schema if is_plain else convert_to_json_schema(schema)  # type: ignore[assignment]
    return {"json_schema": {"x-guidance": {"lenient": True}, **plain}}


def _fits(schema: dict[str, Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if problem := schema_problem(value, schema):
            raise OutputParserException(f"the answer does not fit the schema: {problem}")
        return value

    return check
