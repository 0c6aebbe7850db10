"""No answer of ours becomes LlamaIndex's "Empty Response": what is blocked, or no object, is an error that it lets by.

Its refine loop, which the modes compact and refine and most chat engines run, swallows every ValueError and TypeError.
"""

import asyncio
import traceback
from functools import partial

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel, field_validator
from llama_index.core.chat_engine import CondensePlusContextChatEngine, SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode

from ig_plugins.errors import ConfigurationError
from llama_index.llms.inferenceguard import (
    GuardBlockedError,
    InferenceGuardLLM,
    RequestError,
    StructuredOutputError,
)
from llama_index.llms.inferenceguard._asked import asked_schema
from tests.adapters.llama_index_.guards import MARK, REFUSAL, scripted_guard

PAGES = [NodeWithScore(node=TextNode(text=f"Row {n}: {n * 7919}"), score=1.0) for n in range(2)]
SHORT = {"max_tokens": 90, "candidates": 2, "beams": 1}
FOUND = "It is 7919."


class Note(BaseModel):
    """A note."""

    text: str


class Found(BaseModel):
    """An answer under the name that LlamaIndex looks for."""

    answer: str


class Picky(BaseModel):
    """What no schema says."""

    text: str

    @field_validator("text")
    @classmethod
    def _never(cls, text):
        raise ValueError("not this text")


def says(value):
    """A policy that answers in words, and where an object is asked for, fills all its texts with these."""

    def policy(prompt):
        objects = [
            f'{{"text": "{value}"}}',
            f'{{"answer": "{value}"}}',
            f'{{"query_satisfied": true, "answer": "{value}"}}',
        ]
        asked = prompt.rsplit("assistant", 1)[-1]
        calls = [f" {each}}}\n</tool_call>" for each in objects]
        return dict.fromkeys(calls if "tool_call" in asked else [value, *objects], 1 / 4)

    return policy


def llm_of(value, *, tools=True, **fields):
    guard = scripted_guard(says(value), **SHORT)
    return InferenceGuardLLM.from_guard(guard, is_function_calling_model=tools, **fields)


async def asked(llm, way, **settings):
    """What a synthesizer makes of two pages, in one of four ways."""
    synthesizer = get_response_synthesizer(llm=llm, streaming=way.startswith("streamed"), **settings)
    if way == "async":
        return str((await synthesizer.asynthesize("Which is it?", nodes=PAGES)).response)
    if way == "streamed, async":
        found = await synthesizer.asynthesize("Which is it?", nodes=PAGES)
        return "".join([piece async for piece in found.response_gen])
    found = synthesizer.synthesize("Which is it?", nodes=PAGES)
    return "".join(found.response_gen) if way == "streamed" else str(found.response)


WAYS = ["at once", "async", "streamed", "streamed, async"]
REFINE = ["compact", "refine"]
ASKS = [{"output_cls": Note}, {"output_cls": Found}, {"structured_answer_filtering": True}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", REFINE)
@pytest.mark.parametrize("tools", [True, False], ids=["by a call", "by words"])
@pytest.mark.parametrize("asks", ASKS, ids=["class", "class with answer", "filtering"])
async def test_a_block_is_an_error_and_an_answer_an_answer(asks, tools, mode, way):
    with pytest.raises(GuardBlockedError) as caught:
        await asked(llm_of(MARK, tools=tools), way, response_mode=mode, **asks)
    assert caught.value.report["blocked"] is True
    assert FOUND in await asked(llm_of(FOUND, tools=tools), way, response_mode=mode, **asks)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", REFINE)
async def test_whoever_wants_errors_gets_them_and_else_the_refusal(mode, way):
    with pytest.raises(GuardBlockedError):
        await asked(llm_of(MARK, on_block="raise"), way, response_mode=mode)
    assert (await asked(llm_of(MARK), way, response_mode=mode)).endswith(REFUSAL)


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tools", [True, False], ids=["by a call", "by words"])
async def test_an_answer_that_is_no_object_is_an_error(tools, way):
    """As where the grammar library is missing, and the model says something else."""
    llm = InferenceGuardLLM.from_guard(scripted_guard({"As I said.": 1.0}, **SHORT), is_function_calling_model=tools)
    with pytest.raises(StructuredOutputError) as caught:
        await asked(llm, way, response_mode="compact", output_cls=Note)
    assert not isinstance(caught.value, (ValueError, TypeError))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tools", [True, False], ids=["by a call", "by words"])
async def test_what_the_class_itself_refuses_is_an_error(tools, way):
    with pytest.raises(StructuredOutputError, match=r"(?s)no Picky: .*not this text"):
        await asked(llm_of(FOUND, tools=tools), way, response_mode="compact", output_cls=Picky)


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("way", ["at once", "async"])
@pytest.mark.parametrize("tools", [True, False], ids=["by a call", "by words"])
@pytest.mark.parametrize("said", ['{"text": "My name is Ann."}', "My name is Ann.", '{"text": "My name is Ann.'])
async def test_an_error_quotes_nothing_of_the_answer(said, tools, way):
    """LlamaIndex logs what fails in a sub-question, and warns of what is no object of an agent's class."""
    said = f" {said}}}\n</tool_call>" if tools else said
    llm = InferenceGuardLLM.from_guard(scripted_guard({said: 1.0}, **SHORT), is_function_calling_model=tools)
    predict = llm.astructured_predict if way == "async" else partial(asyncio.to_thread, llm.structured_predict)
    with pytest.raises(StructuredOutputError) as caught:
        await predict(Picky, PromptTemplate("Who?"))
    assert "Ann" not in "".join(traceback.format_exception(caught.value)), "in a log, with its causes"


@pytest.mark.parametrize("way", WAYS)
async def test_settings_that_allow_no_answer_are_an_error(way):
    with pytest.raises(RequestError, match="max_tokens is 4") as caught:
        await asked(llm_of(FOUND, tools=False, max_tokens=4), way, response_mode="compact", output_cls=Note)
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert not isinstance(caught.value, (ValueError, TypeError))


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
async def test_an_llm_of_objects_gives_an_object_or_the_cause(mode):
    found = await asked(llm_of(FOUND).as_structured_llm(Note), "at once", response_mode=mode)
    assert FOUND in found
    for way in ("at once", "async"):
        with pytest.raises(GuardBlockedError):
            await asked(llm_of(MARK).as_structured_llm(Note), way, response_mode=mode)


# ---- chat engines ----


class Pages:
    """A retriever that finds all pages."""

    def retrieve(self, *_):
        return PAGES

    async def aretrieve(self, *_):
        return PAGES


def engines(llm):
    memory = ChatMemoryBuffer.from_defaults(token_limit=2000)
    yield SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    yield CondensePlusContextChatEngine.from_defaults(Pages(), llm=llm, memory=memory)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # LlamaIndex's thread raises it too
async def test_chat_engines_raise_what_was_blocked():
    for engine in engines(llm_of(MARK, on_block="raise")):
        with pytest.raises(GuardBlockedError):
            engine.chat("Which?")
        with pytest.raises(GuardBlockedError):
            await engine.achat("Which?")
        with pytest.raises(GuardBlockedError):
            list(engine.stream_chat("Which?").response_gen)
    for engine in engines(llm_of(MARK)):
        assert str(engine.chat("Which?")) == REFUSAL


@pytest.mark.filterwarnings("ignore:The `json` method is deprecated")
async def test_chat_engines_stream_and_remember_objects():
    """LlamaIndex's own LLM of objects says nothing of what its stream adds, and so they showed nothing."""
    llm = llm_of(FOUND).as_structured_llm(Note)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=ChatMemoryBuffer.from_defaults(token_limit=2000))
    assert FOUND in "".join(engine.stream_chat("Which?").response_gen)
    assert FOUND in str(engine.chat_history[-1].content)
    streaming = await engine.astream_chat("Which?")
    assert FOUND in "".join([piece async for piece in streaming.async_response_gen()])


# ---- programs that others make ----

ASK = PromptTemplate("A note about {topic}.")


@pytest.mark.parametrize("system", [None, "Be brief."])
async def test_a_text_program_is_held_to_its_class(system):
    """A policy that knows nothing of JSON: the words in which LlamaIndex asks for it are understood."""
    llm = InferenceGuardLLM.from_guard(scripted_guard({"I will not.": 1.0}, **SHORT), system_prompt=system)
    program = LLMTextCompletionProgram.from_defaults(output_cls=Note, prompt=ASK, llm=llm)
    assert isinstance(program(topic="rain"), Note)
    assert isinstance(await program.acall(topic="rain"), Note)
    assert isinstance([*program.stream_call(topic="rain")][-1], Note)


async def test_a_program_of_calls_streams_its_object_or_says_why_not():
    def program(value):
        return FunctionCallingProgram.from_defaults(output_cls=Note, prompt=ASK, llm=llm_of(value))

    assert list(program(FOUND).stream_call(topic="rain")) == [Note(text=FOUND)]
    assert [each async for each in await program(FOUND).astream_call(topic="rain")] == [Note(text=FOUND)]
    with pytest.raises(GuardBlockedError):
        list(program(MARK).stream_call(topic="rain"))
    for kind in (program(MARK), LLMTextCompletionProgram.from_defaults(output_cls=Note, prompt=ASK, llm=llm_of(MARK))):
        with pytest.raises(GuardBlockedError):
            kind(topic="rain")


def test_a_schema_is_read_from_the_words_of_llama_indexs_parser_alone():
    parser = PydanticOutputParser(output_cls=Picky)
    for words in (parser.format("Which?"), "Which?" + parser.get_format_string(escape_json=False)):
        user = ChatMessage(role="user", content=words)
        assert asked_schema([user]) == Picky.model_json_schema()
        brief = ChatMessage(role="system", content="Be brief.")
        assert asked_schema([brief, user]) is None, "not where it writes them"
        assert asked_schema([brief, user], system_prompt="Be brief.") == Picky.model_json_schema()
        assert asked_schema([ChatMessage(role="user", content=f"{words} Why?")]) is None
    assert asked_schema([ChatMessage(role="user", content="{schema}")]) is None
    assert asked_schema([]) is None


async def test_a_misspelt_option_is_no_fault_of_the_answer():
    llm = llm_of(FOUND)
    with pytest.raises(TypeError, match="temprature"):
        llm.structured_predict(Note, ASK, llm_kwargs={"temprature": 1}, topic="rain")
    with pytest.raises(TypeError, match="temprature"):
        list(llm.stream_structured_predict(Note, ASK, llm_kwargs={"temprature": 1}, topic="rain"))
    with pytest.raises(TypeError, match="temprature"):
        await llm.astructured_predict(Note, ASK, llm_kwargs={"temprature": 1}, topic="rain")
    allowed = {"temperature": 0.5, "tool_required": True, "allow_parallel_tool_calls": False}
    assert llm.structured_predict(Note, ASK, llm_kwargs=allowed, topic="rain") == Note(text=FOUND)


def test_an_object_for_a_streamed_refine_is_the_same_object():
    (found,) = llm_of(FOUND).stream_structured_predict(Note, ASK, topic="rain")
    assert found == Note(text=FOUND)
    assert found.model_dump() == {"text": FOUND}
    assert repr(found) == repr(Note(text=FOUND))
    assert found.model_copy() == found
