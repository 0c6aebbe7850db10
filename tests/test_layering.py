"""Imports run one way, adapters -> ig_plugins -> critic_models, and frameworks are known to their adapters alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"langchain", "langchain_core", "langgraph", "llama_index", "langchain_huggingface", "langchain_tests"}
OURS = {
    "ig_plugins", "critic_models", "adapters", "langchain_inferenceguard", "inferenceguard_vllm", "tests", "examples",
}  # fmt: skip

# What a storey may not import.
FORBIDDEN = {
    "critic_models": FRAMEWORKS | OURS - {"critic_models"},
    "ig_plugins": FRAMEWORKS | OURS - {"ig_plugins", "critic_models"},
    "adapters/langchain_inferenceguard": {"llama_index", "adapters", "tests", "examples"},
    "adapters/inferenceguard_vllm": FRAMEWORKS
    | OURS - {"inferenceguard_vllm"},  # it stands beside vLLM, without the rest
    "adapters/llama_index": {
        "langchain",
        "langchain_core",
        "langgraph",
        "langchain_inferenceguard",
        "adapters",
        "tests",
    },
}


def imported(source: str) -> set[str]:
    """Top-level names of every import, those inside functions and under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            names |= {str(a.value).partition(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant)}
    return names


def test_the_check_sees_imports_wherever_they_hide():
    source = "def f():\n    import a.b\n    from c.d import e\n    importlib.import_module('g.h')\nfrom . import i"
    assert imported(source) == {"a", "c", "g"}


@pytest.mark.parametrize("storey", FORBIDDEN)
def test_no_import_runs_upward(storey):
    files = sorted((ROOT / storey).rglob("*.py"))
    assert files
    upward = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in files
        if (bad := imported(path.read_text(encoding="utf-8")) & FORBIDDEN[storey])
    }
    assert upward == {}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["ig_plugins", "critic_models"])
def test_importing_a_package_loads_neither_torch_nor_a_framework(package):
    loaded = loaded_after(f"import {package}; dir({package}); {package}.ConfigurationError")
    assert package in loaded
    assert not loaded & ({"torch", "transformers", "scipy", "matplotlib", "fastapi", "typer"} | FRAMEWORKS)


def test_using_the_core_loads_no_framework():
    loaded = loaded_after("import ig_plugins; [getattr(ig_plugins, n) for n in ig_plugins.__all__]")
    assert "torch" in loaded
    assert not loaded & FRAMEWORKS


@pytest.mark.parametrize("package", ["ig_plugins", "critic_models"])
def test_every_promised_name_is_there(package):
    module = __import__(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it offers"):
        _ = module.nothing


def test_everything_public_is_there_under_the_name_that_was_installed():
    import critic_models
    import ig_plugins
    import inferenceguard

    assert sorted(inferenceguard.__all__) == sorted({*ig_plugins.__all__, *critic_models.__all__})
    for name in inferenceguard.__all__:
        home = ig_plugins if name in ig_plugins.__all__ else critic_models
        assert getattr(inferenceguard, name) == getattr(home, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it offers"):
        _ = inferenceguard.nothing
    assert not loaded_after("import sys; sys.path.insert(0, 'adapters'); import inferenceguard") & {
        "torch",
        *FRAMEWORKS,
    }
