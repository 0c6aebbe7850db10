"""What the ecosystem expects of a package, and what users meet at the door."""

import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import ValidationError

import llama_index.llms.inferenceguard as package
from ig_plugins.guard.adapter_fields import GuardFields
from llama_index.llms.inferenceguard import InferenceGuardLLM

ROOT = Path(__file__).parents[3]


def test_class():
    """The one standard test of LlamaIndex integrations, and the bases that we promise."""
    assert BaseLLM.__name__ in [base.__name__ for base in InferenceGuardLLM.__mro__]
    assert issubclass(InferenceGuardLLM, CustomLLM)
    assert issubclass(InferenceGuardLLM, FunctionCallingLLM)
    assert issubclass(InferenceGuardLLM, GuardFields)
    assert InferenceGuardLLM.class_name() == "InferenceGuardLLM"


def test_public_names():
    errors = ["PromptTooLongError", "RequestError", "StructuredOutputError"]
    assert sorted(package.__all__) == ["GuardBlockedError", "InferenceGuardLLM", *errors]
    assert all(hasattr(package, name) for name in package.__all__)


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValidationError, match="treshold"):
        InferenceGuardLLM(treshold=0.9)


def test_fields_have_the_names_of_the_core():
    llm = InferenceGuardLLM(model="some/model", max_new_tokens=9, stop_sequences=["x"], system_prompt="Be kind.")
    assert (llm.max_tokens, llm.stop, llm.system_prompt) == (9, ["x"], "Be kind.")


def test_namespace_has_no_init_and_hub_metadata_names_the_class():
    adapters = ROOT / "adapters"
    for folder in (adapters, adapters / "llama_index", adapters / "llama_index" / "llms"):
        assert not (folder / "__init__.py").exists()
    assert (adapters / "llama_index" / "llms" / "inferenceguard" / "py.typed").exists()
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    hub = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llamahub"]
    assert hub["import_path"] == package.__name__
    assert set(hub["class_authors"]) == {InferenceGuardLLM.__name__}


def test_without_llama_index_the_error_says_what_to_install():
    code = (
        "import sys, importlib.util\n"
        "sys.modules['llama_index.core'] = None\n"  # what an import sees when the package is missing
        f"spec = importlib.util.spec_from_file_location('adapter', {str(Path(package.__file__))!r})\n"
        "try:\n"
        "    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "inferenceguard[llama-index]"' in told
