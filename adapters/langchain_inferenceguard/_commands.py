"""The messages in what a tool answers, or other middleware for it: a message, a Command that writes them, a list."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages
from langgraph.types import Command, Overwrite, Send

from ig_plugins.errors import ConfigurationError


def each_message(answer: Any, change: Callable[[BaseMessage], BaseMessage]) -> Any:
    """A tool's answer with every message in it changed; tools may answer with Commands that carry messages.

    Raises:
        ConfigurationError: A Command writes something of which nobody can say which state key it is for.
    """
    if isinstance(answer, list):
        return [each_message(each, change) for each in answer]
    if not isinstance(answer, Command):
        return change(convert_to_messages([answer])[0])  # other middleware may give what LangGraph makes a message of
    answer = replace(answer, goto=_sent(answer.goto, change))
    if answer.update is None:
        return answer
    if isinstance(answer.update, Mapping):
        return replace(answer, update=_state(answer.update, change))
    pairs = answer._update_as_tuples()  # of pairs, or of an object that has a state's fields
    if any(key == "__root__" for key, _ in pairs):
        kind = type(answer.update).__name__
        raise ConfigurationError(f"a tool answered with a Command whose update is a {kind}; give a dict by state keys")
    return replace(answer, update=[(key, _written(key, each, change)) for key, each in pairs])


def _sent(goto: Any, change: Callable[[BaseMessage], BaseMessage]) -> Any:
    """Where a Command goes, with every message in the states that it sends there changed."""
    if isinstance(goto, Send):
        sent = copy(goto)
        sent.arg = _state(goto.arg, change)
        return sent
    if isinstance(goto, str):
        return goto
    places = [_sent(each, change) for each in goto]
    return places if isinstance(goto, list) else tuple(places)  # LangGraph merges Commands whose goto is a list


def _state(state: Any, change: Callable[[BaseMessage], BaseMessage]) -> Any:
    if isinstance(state, Mapping):
        return {key: _written(key, each, change) for key, each in state.items()}
    if isinstance(state, list):
        return [each if _is_call(each) else change(convert_to_messages([each])[0]) for each in state]
    if isinstance(state, BaseMessage):
        return change(state)
    if not hasattr(state, "messages"):
        return state
    changed = copy(state)
    changed.messages = _written("messages", state.messages, change)
    return changed


def _is_call(value: Any) -> bool:
    """A call for the node of the tools, where it is judged before it is made."""
    return isinstance(value, Mapping) and value.get("type") == "tool_call"


def _written(key: str, value: Any, change: Callable[[BaseMessage], BaseMessage]) -> Any:
    if key != "messages":
        return value
    if isinstance(value, Overwrite):
        return Overwrite(_written(key, value.value, change))
    return [change(message) for message in convert_to_messages(value if isinstance(value, list) else [value])]
