"""What LlamaIndex's own parsers make of an answer: no tool and no reader gets a text of them that was not judged."""

import pytest
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import ToolMetadata

from llama_index.llms.inferenceguard import GuardBlockedError, InferenceGuardLLM, StructuredOutputError
from tests.adapters.llama_index_.guards import MARK, REFUSAL, scripted_guard

OTHER_SPELLINGS = [r"\u0057RECK", r"\x57RECK", r"\U00000057RECK", "WR\\\n   ECK"]


def says(text, **fields):
    return InferenceGuardLLM.from_guard(scripted_guard({text: 1.0}), **fields)


@pytest.mark.parametrize("spelling", OTHER_SPELLINGS)
def test_questions_for_tools_are_judged_as_yaml_reads_them(spelling):
    """What is no JSON is read as YAML, which spells characters in more ways and joins lines."""
    llm = says(f'[{{"sub_question": "{spelling} it", "tool_name": "a"}}]')
    asked = LLMQuestionGenerator.from_defaults(llm=llm)
    with pytest.raises(ValueError, match=f"(?s)^(?!.*{MARK}).*{REFUSAL}"):
        asked.generate([ToolMetadata(name="a", description="Asks.")], QueryBundle("How?"))


class Note(BaseModel):
    """A note."""

    text: str


async def streamed(llm, way, **options):
    """The objects that a program streams which nobody tells the adapter of, and what ended it."""
    program = LLMTextCompletionProgram.from_defaults(output_cls=Note, prompt_template_str="A note.", llm=llm)
    found = []
    try:
        if way == "sync":
            found.extend(each for each in program.stream_call(llm_kwargs=options))
        else:
            async for each in await program.astream_call(llm_kwargs=options):
                found.append(each)
    except (GuardBlockedError, StructuredOutputError) as error:
        return found, error
    return found, None


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_program_streams_no_object_of_half_an_answer(way):
    """LlamaIndex closes what is open in JSON and undoes its escapes: in words that were only judged with them."""
    hidden = says(r'{"text": "We \u0057RECK all of it, and go home to rest a while."}')
    found, error = await streamed(hidden, way)
    assert isinstance(error, GuardBlockedError)
    assert found == []
    whole = says(r'{"text": "We paint \u0061ll of it, and go home to rest a while."}')
    assert await streamed(whole, way) == ([Note(text="We paint all of it, and go home to rest a while.")], None)


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("cut", [{"max_tokens": 30}, {"stop": ["home"]}], ids=["by max_tokens", "by a stop string"])
async def test_an_object_that_was_cut_off_is_not_completed(cut, way):
    found, error = await streamed(says('{"text": "We paint all of it, and go home."}'), way, **cut)
    assert isinstance(error, StructuredOutputError)
    assert "paint" not in str(error)
    assert found == []


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_quotes_and_braces_in_an_object_stay_words(way):
    """LlamaIndex closes them in whole objects, too, and then gives an empty one."""
    assert await streamed(says(r'{"text": "A 5\" pipe, and a {."}'), way) == ([Note(text='A 5" pipe, and a {.')], None)
