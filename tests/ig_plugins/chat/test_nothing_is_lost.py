"""Nothing of an answer disappears: words, calls and invalid calls together hold every character of it."""

import json
import random

import pytest

from ig_plugins.chat import parse_reply, prompt_format
from ig_plugins.chat.syntax import PROMPTED
from tests.kit.guards import MARKER, make_guard

ARGUMENTS = {"city": "Oslo", "days": 3}
BODY = json.dumps({"name": "weather", "arguments": ARGUMENTS})
BROKEN = {
    "unclosed object": BODY[:-1],
    "one brace too many": BODY + "}",
    "cut inside a string": BODY[: BODY.index("slo")],
    "no JSON": "weather of Oslo",
    "single quotes": BODY.replace('"', "'"),
    "unknown tool": BODY.replace("weather", "erase"),
    "no name": json.dumps({"arguments": ARGUMENTS}),
    "no arguments": json.dumps({"name": "weather"}),
    "arguments as text": json.dumps({"name": "weather", "arguments": json.dumps(ARGUMENTS)}),
    "another key": json.dumps({"name": "weather", "arguments": ARGUMENTS, "why": "so"}),
    "not in the schema": BODY.replace("3", '"three"'),
    "required and missing": json.dumps({"name": "weather", "arguments": {"days": 3}}),
    "a key twice": BODY.replace('"days": 3', '"city": "Rome"'),
    "not a number": BODY.replace("3", "NaN"),
    "infinite": BODY.replace("3", "1e999"),
    "a list": f"[{BODY}]",
    "half a character": BODY.replace("Oslo", "\\ud800"),
    "empty": "",
    "nested": "[" * 2000,
    "NUL": BODY.replace("Oslo", "O\0slo"),
    "words inside": f"Sure: {BODY}",
}
WORDS = ["", "Let me look.", "I think so. ", "\n\nWell, ", "a < b", "Naïve 🙂 ", "{", '"quoted"', "</tool_call>", "bye"]


def flat(text: str) -> str:
    return "".join(text.split())


def scripted(rng: random.Random) -> tuple[str, list[str], int, bool]:
    """An answer, its words in order, how many of its calls are good, and whether there are others."""
    text, words, good, bad = "", [], 0, False
    for _ in range(rng.randrange(1, 4)):
        said = rng.choice(WORDS)
        text, words = text + said, [*words, said]
        kind = rng.choice([*BROKEN, *["good"] * 12, "none"])
        if kind == "none":
            continue
        body = BODY if kind == "good" else BROKEN[kind]
        text += f"<tool_call>{rng.choice(['', chr(10), ' '])}{body}{rng.choice(['', chr(10)])}</tool_call>"
        good, bad = good + (kind == "good"), bad or kind != "good"
    if rng.random() < 0.3:
        words.append(rng.choice(WORDS))
        text += words[-1]
    return text, words, good, bad


@pytest.mark.parametrize("style", ["prompted", "hermes", "response template"])
def test_every_character_of_two_thousand_answers_is_in_a_part(style, hermes, answering, tools):
    tokenizer = {"prompted": None, "hermes": hermes, "response template": answering}[style]
    syntax = prompt_format("chat_template", tokenizer).native if tokenizer else PROMPTED
    rng = random.Random(0)
    kinds = {"good": 0, "bad": 0, "words": 0}
    for _ in range(2000):
        text, words, good, bad = scripted(rng)
        if rng.random() < 0.2:  # max_tokens, anywhere
            text = text[: rng.randrange(len(text) + 1)]
            words, good, bad = None, None, None
        reply = parse_reply(text, tools=tools, tokenizer=tokenizer, syntax=syntax)
        raw = "".join(call.text for call in reply.invalid)
        if reply.invalid:
            assert reply.tool_calls == ()
            assert flat(reply.text) + flat(raw) == flat(text)
            assert all(call.problem and call.id for call in reply.invalid)
        elif reply.tool_calls:
            assert [call["arguments"] for call in reply.tool_calls] == [ARGUMENTS] * len(reply.tool_calls)
            assert len(flat(reply.text)) + len(flat(reply.raw)) >= len(flat(text))
        else:
            assert reply.text == text
        if words is not None:
            assert bool(reply.invalid) is bad
            if not bad:
                assert len(reply.tool_calls) == good
                assert flat(reply.text) == flat("".join(words))
        kinds["bad" if reply.invalid else "good" if reply.tool_calls else "words"] += 1
    assert min(kinds.values()) > 50  # each of them was seen often


@pytest.mark.parametrize(
    "kind", ["unclosed object", "unknown tool", "not in the schema", "cut inside a string", "no JSON"]
)
@pytest.mark.parametrize("choice", ["auto", "any", "weather"])
@pytest.mark.usefixtures("no_grammar")
def test_an_invalid_call_was_judged_as_the_text_that_is_handed_out(kind, choice, tools):
    read = []

    def cost(prompts, responses):
        read.extend(responses)
        return [1.0 if MARKER in response else -1.0 for response in responses]

    written = f"<tool_call>{BROKEN[kind]}</tool_call>"
    forced = '<tool_call>\n{"name": "weather", "arguments":'
    answer = {"auto": "Hm. " + written, "any": BROKEN[kind], "weather": " oh no"}[choice]
    guard = make_guard({answer: 1.0}, cost=cost, chat=True)
    for result in (
        guard.generate("Weather?", tools=tools, tool_choice=choice),
        list(guard.stream("Weather?", tools=tools, tool_choice=choice))[-1].result,
    ):
        assert not result.blocked
        assert result.tool_calls == ()
        (call,) = result.invalid_tool_calls
        assert call["text"] in read or call["text"].lstrip("\n") in read
        assert call["problem"]
        assert result.report()["invalid_tool_calls"] == [call]
        if choice == "auto":
            assert (result.text, call["text"]) == ("Hm.", written)
        if choice == "weather":
            assert (result.text, call["text"]) == ("", forced + " oh no")
        if choice != "auto":
            assert max(response.count("<tool_call>") for response in read) == 1


@pytest.mark.usefixtures("no_grammar")
def test_an_invalid_call_that_judges_refuse_is_blocked(tools):
    for body in (f'{{"name": "{MARKER}"', f'{{"name": "weather", "arguments": {{"city": "{MARKER}"}}'):
        guard = make_guard({f"Hm. <tool_call>{body}</tool_call>": 1.0}, chat=True)
        result = guard.generate("Weather?", tools=tools)
        assert result.blocked
        assert result.invalid_tool_calls == ()
        assert MARKER not in json.dumps(result.report())


@pytest.mark.usefixtures("no_grammar")
def test_a_part_that_judges_refuse_alone_is_blocked(tools):
    """A text judge that minds calls only where no words stand before them still reads the call that leaves."""

    def cost(prompts, responses):
        return [1.0 if response.startswith("<tool_call>") else -1.0 for response in responses]

    guard = make_guard({"Hm. <tool_call>{</tool_call>": 1.0}, cost=cost, chat=True)
    assert guard.generate("Weather?", tools=tools).blocked
