"""OpenAI's clients work unchanged, and what is refused is refused by name: the table of docs/serving.md."""

import re
from pathlib import Path

import pytest

from ig_plugins import InferenceGuard
from tests.ig_plugins.server.thread import serving
from tests.kit.guards import MARKER, make_guard
from tests.kit.tool_caller import CALL, tool_caller

for package in ("openai", "langchain_openai", "llama_index.llms.openai_like"):
    pytest.importorskip(package)

from tests.ig_plugins.server.clients import BLOCKED, CALLS, MODEL, TOOLS, table  # noqa: E402

DOCS = Path(__file__).parents[3] / "docs" / "serving.md"
TWICE = "\n".join(CALL % ("add", f'{{"a": {number}}}') for number in (1, 2))


@pytest.fixture(scope="module")
def url():
    guards = {
        MODEL: InferenceGuard.from_pretrained(MODEL),
        TOOLS: make_guard(tool_caller, chat=True, search={"max_new_tokens": 256}),
        BLOCKED: make_guard({f"Just {MARKER} it.": 1.0}),
        "two calls": make_guard({TWICE: 1.0}, chat=True, search={"max_new_tokens": 256}),
    }
    with serving(guards, aliases={"gpt-4o-mini": MODEL}) as address:
        yield address


@pytest.mark.parametrize("call", CALLS, ids=[f"{call.client}: {call.words}" for call in CALLS])
def test_the_call(call, url):
    if call.refused is None:
        call.run(url)
        return
    with pytest.raises(Exception, match=re.escape(call.refused)):
        call.run(url)


def test_the_table_in_the_docs_is_this_one():
    assert len(CALLS) >= 60
    assert table() in DOCS.read_text(encoding="utf-8"), "run: python -m tests.ig_plugins.server.clients"
