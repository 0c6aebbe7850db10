"""LangChain's own standard tests, all of them, on two models.

The scripted policy has the tool skill that the integration tests ask for. The bundled model has none (it speaks a small
grammar), so it runs the suite with tool calling and structured output declared as what they are for it: not there.
Nothing is overridden and nothing is an expected failure. Skipped by the suites' own gates: `test_init_from_env` (no
setting of ours comes from the environment), `test_serdes` (finding F10: it cannot pass for a class outside LangChain's
own mapping, so the class says that it is not serialisable), images, audio, PDFs, recorded HTTP.
"""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from ig_plugins import InferenceGuard
from langchain_inferenceguard import ChatInferenceGuard
from tests.kit.guards import make_guard
from tests.kit.tool_caller import tool_caller


class ScriptedChat(ChatInferenceGuard):
    """The chat class, made by its constructor as the suites want it, over the scripted policy."""

    def load_guard(self) -> InferenceGuard:
        return SCRIPTED


SCRIPTED = make_guard(tool_caller, chat=True)


class TestBundledUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatInferenceGuard

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "tiny-beaver"}


class TestBundledIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatInferenceGuard

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "tiny-beaver", "max_tokens": 48, "candidates": 4, "beams": 2}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False


class TestScriptedUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ScriptedChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted"}


class TestScriptedIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ScriptedChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "max_tokens": 400, "candidates": 2, "beams": 1, "block_tokens": 32}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestScriptedIntegrationWithJsonSchema(TestScriptedIntegration):
    """Structured output once more, by the schema in the system message."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}


@pytest.fixture(autouse=True, scope="module")
def _scripted_lives() -> Any:
    return SCRIPTED
