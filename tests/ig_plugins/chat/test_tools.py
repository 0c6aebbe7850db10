"""Tools, the choice among them, and how a model is told about them."""

import json

import jinja2
import pytest

from ig_plugins.chat import (
    PROMPTED,
    as_tools,
    choose,
    native_syntax,
    parse_reply,
    prompt_format,
)
from ig_plugins.chat.syntax import template_reads
from ig_plugins.chat.wording import BEHIND_RESULT, instruction
from ig_plugins.errors import ConfigurationError, PromptError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        (False, "none"),
        ("any", "any"),
        ("required", "any"),
        (True, "any"),
        ({"type": "any"}, "any"),
        ({"type": "auto"}, "auto"),
        ("weather", "weather"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
        ({"type": "tool", "name": "remove"}, "remove"),
    ],
)
def test_every_form_of_tool_choice(given, meant, tools):
    assert choose(given, as_tools(tools)) == meant


def test_any_of_one_is_that_one(tools):
    assert choose("any", as_tools(tools[:1])) == "weather"


@pytest.mark.parametrize("choice", [None, "auto", "none", False])
def test_without_tools_there_is_nothing_to_choose(choice):
    assert choose(choice, ()) == "none"


@pytest.mark.parametrize(
    ("choice", "count", "says"),
    [
        ("wether", 2, "'wether'; allowed here are auto, none, any, weather, remove"),
        ({"function": {"name": "x"}}, 2, "allowed here are"),
        ({}, 2, "allowed here are"),
        ("any", 0, "as no tools are given"),
        ("weather", 0, "as no tools are given"),
    ],
)
def test_bad_choices_are_named(choice, count, says, tools):
    with pytest.raises(PromptError, match=says):
        choose(choice, as_tools(tools[:count]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([5], "tool 0 has no name"),
        ([{"description": "x"}], "tool 0 has no name"),
        ([{"name": "a"}, {"name": "a"}], "'a' is given twice"),
        ([{"name": "a", "parameters": {"type": "string"}}], "not the JSON schema of an object"),
    ],
)
def test_bad_tools_are_named(given, says):
    with pytest.raises(PromptError, match=says):
        as_tools(given)


def test_template_variables_are_seen_through_loops_and_generation_blocks():
    assert template_reads("{% for m in messages %}{% if tools %}{{ tools }}{% endif %}{% endfor %}", "tools")
    assert template_reads("{%- for t in tools %}{% break %}{% endfor %}", "tools")
    assert template_reads("{% generation %}{{ tools }}{% endgeneration %}", "tools")
    assert not template_reads("{% set tools = [] %}{{ tools }}", "tools")
    assert not template_reads("{# tools #}{{ messages }}", "tools")
    with pytest.raises(jinja2.TemplateError):
        jinja2.Environment().parse("{% generation %}{% endgeneration %}")


def test_syntax_is_learnt_from_the_chat_template(hermes, tagged, chatml):
    json_calls = native_syntax(hermes)
    assert (json_calls.start, json_calls.end, json_calls.marker) == ("<tool_call>", "</tool_call>", "<tool_call>")
    assert json_calls.opening("weather") == '<tool_call>\n{"name": "weather", "arguments":'
    assert json_calls.opening(None) == '<tool_call>\n{"name": "'
    assert json_calls.arguments == "arguments"
    tag_calls = native_syntax(tagged)
    assert tag_calls.opening("weather") == "<tool_call>\n<function=weather>"
    assert (tag_calls.marker, tag_calls.templated) == ("", True)
    assert native_syntax(chatml) is None


def test_a_prompt_that_a_call_follows_at_once(chatml, tools):
    """Where calls do not start where a plain answer's text does, the opening follows the generation prompt."""
    from copy import deepcopy

    tokenizer = deepcopy(chatml)
    tokenizer.chat_template = (
        "{{ tools }}{% for m in messages %}{{ '[' + m.role + ']' }}{% if m.tool_calls %}"
        "{% for c in m.tool_calls %}{{ ' to=' + c.function.name + '|' }}{{ c.function.arguments | tojson }}{% endfor %}"
        "{% else %}{{ '|final|' if m.role == 'assistant' }}{{ m.content }}{% endif %}{{ '/' }}{% endfor %}"
        "{{ '[assistant]' if add_generation_prompt }}"
    )
    calls = {"open_pattern": r" to=(?P<name>\w+)\|", "close": "/", "content": "json", "repeats": True}
    calls["transform"] = {"function": {"name": "{name}", "arguments": "{content}"}}
    tokenizer.response_template = {"start_anchor": "[assistant]", "fields": {"tool_calls": calls}}
    encoded = prompt_format("chat_template", tokenizer).encode("hi", tools=tools, tool_choice="weather")
    assert encoded.opening == " to=weather|"
    assert tokenizer.decode(encoded.prompt_ids).endswith("hi/[assistant]")
    options = {"tokenizer": tokenizer, "tools": tools, "opening": encoded.opening, "syntax": encoded.syntax}
    assert parse_reply('{"city": "Oslo"}/', **options).tool_calls[0]["arguments"] == {"city": "Oslo"}
    assert parse_reply('{"city": "Oslo"', **options).malformed


def test_a_form_that_nothing_can_read_back_is_explained_in_words(tagged):
    from copy import deepcopy

    other = deepcopy(tagged)
    other.response_template = None
    assert native_syntax(other) is None


def test_a_call_that_cannot_be_forced_natively_is_forced_in_words(tagged, tools):
    from copy import deepcopy

    other = deepcopy(tagged)
    other.chat_template = "{{ raise_exception('no calls') if messages[1:] }}" + tagged.chat_template
    form = prompt_format("chat_template", other)
    assert form.native.before_name == ""
    assert form.encode("hi", tools=tools).syntax.native
    other.chat_template = tagged.chat_template.replace("m.tool_calls or []", "[]")
    forced = prompt_format("chat_template", other).encode("hi", tools=tools, tool_choice="weather")
    assert forced.syntax is PROMPTED
    assert '"name": "weather"' in other.decode(forced.prompt_ids)


def test_templates_that_read_blocks_only_get_blocks(chatml):
    from copy import deepcopy

    other = deepcopy(chatml)
    block = "{% for b in m.content %}{{ b.text }}{% endfor %}"
    other.chat_template = chatml.chat_template.replace("m.content", "'' }}" + block + "{{ ''")
    talk = [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "Sure"}]
    for way in ("turn", "prefill"):
        encoded = prompt_format("chat_template", other).encode(talk, last_assistant=way)
        assert encoded == prompt_format("chat_template", chatml).encode(talk, last_assistant=way)
    other.chat_template = "{{ 'nothing' }}"
    with pytest.raises(ConfigurationError, match="does not show the text of a user message; choose"):
        prompt_format("chat_template", other)


def test_tools_are_rendered_by_the_template_that_knows_them(hermes, tools):
    encoded = prompt_format("chat_template", hermes).encode("hi", tools=tools)
    text = hermes.decode(encoded.prompt_ids)
    assert text.startswith("<|im_start|>system\n# Tools\n")
    assert json.loads(text.split("\n")[2])["function"]["name"] == "weather"
    assert encoded.syntax.native
    assert (encoded.opening, encoded.prefill_ids) == ("", [])


@pytest.mark.parametrize("spec", ["beaver", "plain", "chat_template"])
def test_other_models_are_told_in_words(spec, chatml, tools):
    encoded = prompt_format(spec, chatml).encode("hi", tools=tools)
    text = chatml.decode(encoded.prompt_ids)
    assert '"name": "weather"' in text
    assert "<tool_call>" in text
    assert text.count("in plain words") == 1
    assert encoded.syntax is PROMPTED
    assert encoded.judge_prompt == "hi"


@pytest.mark.parametrize("spec", ["beaver", "plain", "chat_template"])
@pytest.mark.parametrize(
    ("choice", "opening"),
    [("weather", '<tool_call>{"name": "weather", "arguments":'), ("any", '<tool_call>{"name": "'), ("auto", "")],
)
def test_a_forced_choice_opens_the_answer(spec, choice, opening, chatml, tools):
    encoded = prompt_format(spec, chatml).encode("hi", tools=tools, tool_choice=choice)
    assert encoded.opening == opening
    assert chatml.decode(encoded.prefill_ids) == opening


def test_where_a_forced_call_is_masked_its_schema_is_told_and_no_example(chatml, tools):
    """Small models copy the example's dots into the call."""

    def told(choice, **held):
        return prompt_format("chat_template", chatml).encode(
            "Hello", tools=tools, tool_choice=choice, **held
        ).judge_prompt, chatml.decode(
            prompt_format("chat_template", chatml).encode("Hello", tools=tools, tool_choice=choice, **held).prompt_ids
        )

    name = as_tools(tools)[0]["function"]["name"]
    schema = json.dumps(as_tools(tools)[0]["function"]["parameters"], ensure_ascii=False)
    for choice in (name, "any"):
        assert schema in told(choice, masked=True)[1]
        assert PROMPTED.start not in told(choice, masked=True)[1].partition("assistant")[0]
        assert schema not in told(choice)[1]
    assert told("auto", masked=True) == told("auto"), "a free call has to be taught its form"


def test_an_opening_uses_the_markers_own_token_and_no_thinking(hermes, tools):
    encoded = prompt_format("chat_template", hermes).encode("hi", tools=tools, tool_choice="remove")
    assert encoded.prefill_ids[0] == hermes.convert_tokens_to_ids("<tool_call>")
    assert hermes.decode(encoded.prompt_ids).endswith("assistant\n")


def test_none_hides_the_tools(hermes, chatml, tools):
    for tokenizer in (hermes, chatml):
        form = prompt_format("chat_template", tokenizer)
        encoded = form.encode("hi", tools=tools, tool_choice="none")
        assert encoded.prompt_ids == form.encode("hi").prompt_ids
        assert encoded.syntax is None


HISTORY = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "weather", "arguments": {"city": "Ärö"}}]},
    {"role": "tool", "content": "sunny", "tool_call_id": "1"},
]


def test_calls_and_results_in_the_history(hermes, chatml, tools):
    native = hermes.decode(prompt_format("chat_template", hermes).encode(HISTORY, tools=tools).prompt_ids)
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Ärö"}}\n</tool_call><|im_end|>' in native
    assert "<tool_response>sunny</tool_response>" in native
    told = chatml.decode(prompt_format("chat_template", chatml).encode(HISTORY, tools=tools).prompt_ids)
    assert 'assistant\n<tool_call>{"name": "weather", "arguments": {"city": "Ärö"}}</tool_call><|im_end|>' in told
    assert f"<|im_start|>user\nResult of weather: sunny\n\n{BEHIND_RESULT}<|im_end|>" in told
    assert "calls" in prompt_format("beaver", chatml).encode(HISTORY).judge_prompt


def test_words_behind_a_result_ask_for_the_answer(chatml, tools):
    """Where the answer is free, and while the result is the last that was said."""
    form = prompt_format("chat_template", chatml)

    def told(history, **options):
        return chatml.decode(form.encode(history, **options).prompt_ids)

    asked, answered = told(HISTORY[:1], tools=tools), told(HISTORY, tools=tools)
    assert "Call a tool if it helps" in asked
    assert "Call a tool if it helps" not in answered
    assert "Answer in plain words with their results" in answered
    assert BEHIND_RESULT in told(HISTORY, tools=tools, tool_choice="none")
    for other in (told(HISTORY, tools=tools, tool_choice="any"), told([*HISTORY, HISTORY[0]], tools=tools), asked):
        assert BEHIND_RESULT not in other
        assert "with their results" not in other


def test_calls_without_results_cannot_be_answered(chatml):
    with pytest.raises(PromptError, match="add the tools' results"):
        prompt_format("beaver", chatml).encode(HISTORY[:2])


def test_a_signature_in_a_description_says_nothing_new():
    """LlamaIndex puts it there; the model is told the same as by LangChain."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    plain, signed = (
        as_tools([{"name": "weather", "description": described, "parameters": parameters}])
        for described in ("The weather in a city.", "weather(city: str) -> str\nThe weather in a city.")
    )
    assert instruction(plain, "auto") == instruction(signed, "auto")
    alone = as_tools([{"name": "weather", "description": "weather(city)", "parameters": parameters}])
    assert "weather: weather(city)" in instruction(alone, "auto")
