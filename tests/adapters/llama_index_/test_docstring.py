"""The class's docstring keeps LlamaIndex's form, and its code runs."""

import contextlib
import inspect
import io
import re
import textwrap

import pytest
from llama_index.core import Settings

from llama_index.llms.inferenceguard import InferenceGuardLLM


@pytest.mark.slow
def test_the_examples_of_the_docstring_run(monkeypatch):
    before = Settings._llm
    text = inspect.getdoc(InferenceGuardLLM)
    examples = text.partition("Examples:\n")[2]
    assert "    `pip install" in examples
    code = textwrap.dedent(re.search(r"( *)```python\n(.*?)```", examples, re.S)[2])
    names, printed = {}, io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docstring", "exec"), names)
        assert Settings.llm is names["llm"]
    finally:
        Settings._llm = before
    said = printed.getvalue()
    assert names["response"].text in said
    assert "\nFalse\n" in said, "as the comment says"
    assert said.endswith(tuple("abcdefghijklmnopqrstuvwxyz.!"))
