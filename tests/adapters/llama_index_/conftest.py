"""Fixtures: a guard over a scripted policy, and everything that LlamaIndex lets observers see."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from llama_index.llms.inferenceguard import InferenceGuardLLM
from tests.kit.no_grammar import no_grammar  # noqa: F401


class Events(BaseEventHandler):
    """Keeps every instrumentation event."""

    seen: list[Any] = []

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **_: Any) -> None:
        self.seen.append(event)

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.seen]


class Callbacks(BaseCallbackHandler):
    """Keeps every call of the older callback system."""

    def __init__(self) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])
        self.starts: list[tuple[str, Any]] = []
        self.ends: list[tuple[str, Any]] = []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **_):
        self.starts.append((event_type.value, payload))
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **_):
        self.ends.append((event_type.value, payload))

    def count(self) -> tuple[int, int]:
        """Starts and ends of LLM calls."""
        starts, ends = ([name for name, _ in seen].count("llm") for seen in (self.starts, self.ends))
        return starts, ends

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass


@contextmanager
def observed(llm: InferenceGuardLLM) -> Iterator[tuple[Events, Callbacks]]:
    """Listens to an LLM through both of LlamaIndex's systems."""
    events, callbacks = Events(seen=[]), Callbacks()
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(events)
    llm.callback_manager = CallbackManager([callbacks])
    try:
        yield events, callbacks
    finally:
        dispatcher.event_handlers.remove(events)


@pytest.fixture
def watch():
    return observed


@pytest.fixture(autouse=True)
def _tokenizer_of_llama_index_as_it_was(monkeypatch):
    """What reading an LLM's metadata sets, once for the process."""
    import llama_index.core

    monkeypatch.setattr(llama_index.core, "global_tokenizer", llama_index.core.global_tokenizer)
