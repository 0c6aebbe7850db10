"""Scripted guards behind LangChain's classes: real search, real verifier, no weights."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM
from tests.kit.guards import make_guard
from tests.kit.no_grammar import no_grammar  # noqa: F401
from tests.kit.observe import LeakScanner
from tests.kit.slow import slow_guard

Model = TypeVar("Model", InferenceGuardLLM, ChatInferenceGuard)
GREETING = "Good morning, and good luck with it."


class Watcher(BaseCallbackHandler):
    """Writes down every callback it gets, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def named(self, name: str) -> list[Any]:
        return [seen for event, seen in self.events if event == name]

    def on_llm_start(self, serialized, prompts, **kwargs):
        self.events.append(("start", (prompts, kwargs)))

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.events.append(("start", (messages, kwargs)))

    def on_llm_new_token(self, token, *, chunk=None, **kwargs):
        self.events.append(("token", (token, chunk)))

    def on_llm_end(self, response, **kwargs):
        self.events.append(("end", response))

    def on_llm_error(self, error, **kwargs):
        self.events.append(("error", error))


class ScanningWatcher(Watcher):
    """Hands all that callbacks get to a leak scanner as well."""

    run_inline = True

    def __init__(self, scanner: LeakScanner) -> None:
        super().__init__()
        self.scanner = scanner

    def on_llm_new_token(self, token, *, chunk=None, **kwargs):
        self.scanner.see("callback token", token, chunk)

    def on_llm_end(self, response, **kwargs):
        self.scanner.see("callback end", response)

    def on_llm_error(self, error, **kwargs):
        self.scanner.see_exception(error)
        self.scanner.see("callback error", kwargs)

    def on_chain_end(self, outputs, **kwargs):
        self.scanner.see("callback chain end", outputs)

    def on_chain_error(self, error, **kwargs):
        self.scanner.see_exception(error)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def scripted(
    cls: type[Model], answers: Any, fields: dict[str, Any] | None, *, step_seconds: float = 0, **options: Any
) -> Model:
    """A model class over a scripted policy that speaks ChatML; options are those of a guard's call."""
    answers = answers or {GREETING: 1.0}
    guard = slow_guard(answers, step_seconds=step_seconds) if step_seconds else make_guard(answers, chat=True)
    return cls.from_guard(guard.with_options(**options), **(fields or {}))


@pytest.fixture
def make_llm() -> Callable[..., InferenceGuardLLM]:
    return lambda answers=None, *, fields=None, **options: scripted(InferenceGuardLLM, answers, fields, **options)


@pytest.fixture
def make_chat() -> Callable[..., ChatInferenceGuard]:
    return lambda answers=None, *, fields=None, **options: scripted(ChatInferenceGuard, answers, fields, **options)
