"""Pages of numbers, far longer in tokens than LlamaIndex takes them for: an answer, or a clear error."""

import random

import llama_index.core
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode

from examples.llama_index_embedding import WordEmbedding
from llama_index.llms.inferenceguard import InferenceGuardLLM, PromptTooLongError
from tests.adapters.llama_index_.guards import scripted_guard


@pytest.fixture(autouse=True)
def _nobody_set_a_tokenizer(monkeypatch):
    monkeypatch.setattr(llama_index.core, "global_tokenizer", None)


@pytest.fixture
def llm():
    return InferenceGuardLLM.from_guard(scripted_guard({"It is 7.": 1.0}, max_tokens=64))


def pages(count=60, size=700):
    rng = random.Random(0)
    digits = [" ".join(str(rng.randrange(10**9)) for _ in range(size // 10)) for _ in range(count)]
    return [NodeWithScore(node=TextNode(text=f"Row {n}: {text}"), score=1.0) for n, text in enumerate(digits)]


# What each mode gives: a text of the model's for the question, one for each packed page, the pages themselves, or only
# the nodes, where nobody asked for a text.
MODES = {mode.value: "It is 7." for mode in ResponseMode} | {"no_text": "", "context_only": "Row 11"}


async def said(synthesizer, way):
    if way == "async":
        return (await synthesizer.asynthesize("Which is it?", nodes=pages(12))).response
    found = synthesizer.synthesize("Which is it?", nodes=pages(12))
    return "".join(found.response_gen) if hasattr(found, "response_gen") else found.response


@pytest.mark.parametrize("way", ["at once", "async", "streamed"])
@pytest.mark.parametrize("mode", MODES)
async def test_every_response_mode_answers(llm, mode, way, monkeypatch):
    if way == "streamed" and "accumulate" in mode:
        pytest.skip("LlamaIndex streams none of these")
    monkeypatch.setattr(Settings, "_llm", llm)  # some modes take no other
    synthesizer = get_response_synthesizer(llm=llm, response_mode=ResponseMode(mode), streaming=way == "streamed")
    text = await said(synthesizer, way)
    assert MODES[mode] in text
    assert text or mode == "no_text"
    assert "Empty Response" not in text


def test_a_query_engine_over_sixty_pages_never_ends_empty(llm):
    index = VectorStoreIndex.from_documents(
        [Document(text=each.node.text) for each in pages(60, 500)], embed_model=WordEmbedding()
    )
    engine = index.as_query_engine(llm=llm, similarity_top_k=60)
    assert str(engine.query("Which is it?")) == "It is 7."


def test_what_is_too_long_all_the_same_is_no_value_error(llm):
    for call in (
        lambda: llm.complete("7" * 9000),
        lambda: llm.chat([ChatMessage(content="7" * 9000)]),
        lambda: list(llm.stream_complete("7" * 9000)),
    ):
        with pytest.raises(PromptTooLongError, match=r"context holds 8192.*retrieve less") as caught:
            call()
        assert not isinstance(caught.value, ValueError)
    one = [NodeWithScore(node=TextNode(text="7 " * 6000), score=1.0)]
    with pytest.raises(PromptTooLongError):
        get_response_synthesizer(llm=llm, response_mode="generation").synthesize("7" * 9000, nodes=one)


def test_the_window_is_a_field_and_leaves_room_for_the_template(llm):
    shown = llm.metadata.context_window
    assert 0 < llm.guard.context - shown < 100
    smaller = InferenceGuardLLM.from_guard(llm.guard, context_window=2000)
    assert smaller.metadata.context_window == 2000 - (llm.guard.context - shown)
    helper = PromptHelper.from_llm_metadata(llm.metadata)
    assert helper._token_counter.get_string_tokens("1234567890") == len(llm.guard.tokenizer.encode("1234567890"))


def test_a_tokenizer_that_somebody_set_stays(llm, monkeypatch):
    mine = str.split
    monkeypatch.setattr(llama_index.core, "global_tokenizer", mine)
    assert llm.metadata
    assert llama_index.core.global_tokenizer is mine


def test_tool_skill_is_told_by_the_template_and_may_be_set(llm):
    assert llm.metadata.is_function_calling_model
    bundled = InferenceGuardLLM(model="tiny-beaver")
    assert not bundled.metadata.is_function_calling_model
    assert InferenceGuardLLM(model="tiny-beaver", is_function_calling_model=True).metadata.is_function_calling_model
    asked = InferenceGuardLLM.from_guard(llm.guard, is_function_calling_model=False)
    assert not asked.metadata.is_function_calling_model
