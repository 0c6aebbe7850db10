"""The examples run as they stand, on the bundled model."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.adapters.langchain.docs_page import PAGE
from tests.adapters.llama_index_.docs_page import outputs

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("langchain_chain", ["blocked:", "candidates judged safe"]),
        ("langchain_rag", ["found: The jigsaw has", "found: The medal is"]),
        ("langchain_agent", ["call    opening_hours", "Noted: library until 18", "tool_call: cost scored 1"]),
        ("langchain_stream", ["[user 1]", "[user 3]", "tokens behind decoding"]),
    ],
)
def test_example(name, told, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for words in told:
        assert words in printed


@pytest.mark.slow
def test_the_documentations_code_runs_and_prints_what_it_says():
    page = PAGE.read_text()
    blocks = [(block["output"], printed) for block, printed in outputs(page)]
    assert len(blocks) == page.count("```python") >= 6
    assert all(bool(printed) is bool(output) for output, printed in blocks)


def test_the_documented_comparison_is_complete():
    """Every question of the script has a row in the docs, and ours answers each with yes."""
    script = runpy.run_path(str(EXAMPLES / "compare_langchain_huggingface.py"))
    page = (EXAMPLES.parent / "docs" / "langchain.md").read_text()
    for words, _ in script["QUESTIONS"]:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {words} |")]
        assert row.endswith("| yes |")
