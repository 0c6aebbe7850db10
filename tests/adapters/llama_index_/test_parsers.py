"""What LlamaIndex's own parsers make of an answer: no tool and no reader gets a text of them that was not judged."""

import pytest
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import ToolMetadata

from llama_index.llms.inferenceguard import InferenceGuardLLM
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
