"""The classes' docstrings keep LangChain's form, their code runs, and prints what stands beneath it."""

import ast
import contextlib
import inspect
import io
import re
import textwrap

import pytest

from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM
from tests.kit.tool_caller import tool_caller

SECTION = re.compile(r"^(?P<title>[A-Z][^\n]*):\n(?P<body>(?:    [^\n]*\n|\n)+)", re.M)
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:```\n(?P<output>.*?)```)?", re.S)
FORM = ["Setup", "Key init args - completion params", "Instantiate", "Invoke", "Stream", "Async", "Token usage"]
SKILLED = ("Tool calling", "Structured output")
"""What no bundled model can do: there the tests' scripted one speaks."""


def sections(cls):
    """Title -> text, in the order of the docstring."""
    text = inspect.getdoc(cls) + "\n"
    return {found["title"]: textwrap.dedent(found["body"]) for found in SECTION.finditer(text)}


async def shown(code, names):
    """What a block prints, and then what its last expression is."""
    tree = ast.parse(code)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("_last", ast.Store())], last.value)
    ast.fix_missing_locations(tree)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        made = eval(compile(tree, "docstring", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if inspect.iscoroutine(made):
            await made
    last = names.pop("_last", None)
    return printed.getvalue() + ("" if last is None else repr(last))


def holds(found, told):
    """Whether an output has all pieces of the documented one, which is shortened at dots, in their order."""
    found, at = " ".join(found.split()), 0
    for piece in (" ".join(piece.split()) for piece in told.split("...")):
        at = found.find(piece, at)
        if at < 0:
            return False
    return True


def test_what_is_left_out_between_dots_may_be_anything():
    assert holds("a b c d", "a ... d")
    assert not holds("a b c d", "d ... a")
    assert not holds("a b", "a c")


@pytest.mark.parametrize("cls", [ChatInferenceGuard, InferenceGuardLLM])
def test_docstrings_keep_the_frameworks_form(cls):
    titles = list(sections(cls))
    wanted = FORM if cls is ChatInferenceGuard else [*FORM[:-1], "Token usage, guard result"]
    assert [title for title in titles if title in wanted] == wanted
    assert "Blocked requests" in titles
    assert set(SKILLED) <= set(titles) or cls is InferenceGuardLLM


@pytest.mark.slow
@pytest.mark.parametrize("cls", [ChatInferenceGuard, InferenceGuardLLM])
async def test_the_code_in_docstrings_runs_and_prints_what_it_says(cls, make_chat):
    names = {"__name__": "docstring"}
    ran = 0
    for title, body in sections(cls).items():
        scope = {**names, "chat": make_chat(tool_caller)} if title in SKILLED else names
        for block in BLOCK.finditer(body):
            output = await shown(block["code"], scope)
            assert holds(output, block["output"] or ""), f"{title}: {output}"
            ran += 1
    assert ran >= 3
