"""Answers behind vLLM are held to grammars: sent whole, begun with the answer, and read again here."""

import json
import random
import re

import pytest

from ig_plugins import ConfigurationError, RemoteReplyError
from ig_plugins.chat import as_tools
from ig_plugins.chat.syntax import prompted_syntax
from ig_plugins.grammar import Rule, as_lark, call_rule, compiler, or_calls, rule
from tests.ig_plugins.remote.conftest import QUESTION
from tests.kit.fake_engine import lies, status
from tests.kit.tiny import tiny_guard

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "tame": {"type": "boolean"}},
    "required": ["kind", "tame"],
}
WISHES = [
    ({"json_schema": PERSON}, lambda text: set(json.loads(text)) == {"kind", "tame"}),
    ({"regex": r"[0-9]{3}/(a|b)"}, lambda text: re.fullmatch(r"[0-9]{3}/(a|b)", text)),
    ({"choices": ["yes", 'a "quoted" no']}, lambda text: text in ("yes", 'a "quoted" no')),
    ({"grammar": 'start: "k" more more?\nmore: "-" /[0-9]/'}, lambda text: re.fullmatch("k(-[0-9]){1,2}", text)),
]
TOOL = {
    "type": "function",
    "function": {
        "name": "find", "description": "Finds.",
        "parameters": {"type": "object", "properties": {"what": {"enum": ["tea", "rice"]}}, "required": ["what"]},
    },
}  # fmt: skip


@pytest.mark.parametrize(("wish", "fits"), WISHES, ids=[next(iter(wish)) for wish, _ in WISHES])
def test_every_answer_fits_and_is_one_block(engine, guarded, wish, fits):
    server = engine("vllm")
    guard = guarded(server, max_tokens=60, block_tokens=4, max_lag=0)
    for _ in range(2):
        asked = len(server.bodies)
        result = guard.generate(QUESTION, **wish)
        assert fits(result.text)
        assert result.finish_reason == "stop"
        (body,) = server.bodies[asked:]
        assert body["structured_outputs"].keys() == {"grammar"}
        assert (body["n"], body["max_tokens"]) == (8, 60)
    *_, last = chunks = list(guard.stream(QUESTION, **wish))
    assert "".join(chunk.text for chunk in chunks) == last.result.text
    assert fits(last.result.text)


def test_a_forced_call_is_held_to_its_tool(engine, guarded):
    server = engine("vllm")
    guard = guarded(server)
    for _ in range(3):
        (call,) = guard.generate(QUESTION, tools=[TOOL], tool_choice="any", max_tokens=100).tool_calls
        assert call["arguments"]["what"] in ("tea", "rice")
    assert "structured_outputs" in server.bodies[-1]


def test_what_is_asked_for_without_a_grammar_has_none(engine, guarded):
    server = engine("vllm")
    guarded(server).generate(QUESTION)
    assert not any("structured_outputs" in body for body in server.bodies)


def test_a_try_that_failed_is_drawn_again_from_the_beginning(engine, guarded):
    seen = []

    def cost(prompts, responses):
        seen.append(responses)
        return [1.0 if len(seen) < 3 else -1.0 for _ in responses]

    result = guarded(engine("vllm"), cost_model=cost, max_tokens=60).generate(QUESTION, choices=["yes", "no"])
    assert result.text in ("yes", "no")
    assert len(seen) >= 3


def test_a_server_that_ignores_the_grammar_is_found_out(engine, guarded):
    """As one does that is no vLLM, or whose own library reads the grammar otherwise."""
    server = engine("vllm")
    guard = guarded(server, max_tokens=60)
    honest = server.sample
    server.sample = lambda prompt, body: honest(prompt, {**body, "structured_outputs": None})
    with pytest.raises(RemoteReplyError, match=r"its grammar does not allow; nothing of it is used.*backend guidance"):
        guard.generate(QUESTION, regex="[0-9]{3}")
    assert guard.generate(QUESTION).text


def test_an_answer_that_stops_too_soon_is_not_used(engine, guarded):
    server = engine("vllm")
    guard = guarded(server, max_tokens=60)
    (stop,) = guard.components.policy.stop_ids

    def shorten(choices):
        for choice in choices:
            choice["token_ids"] = [*choice["token_ids"][:2], stop]

    server.plan = lambda number, body: lies(shorten)
    with pytest.raises(RemoteReplyError, match="its grammar does not allow"):
        guard.generate(QUESTION, json_schema=PERSON)


def test_a_server_that_refuses_the_grammar_is_a_typed_error(engine, guarded):
    server = engine("vllm")
    guard = guarded(server)
    server.plan = lambda number, body: status(400) if "structured_outputs" in body else None
    with pytest.raises(RemoteReplyError, match="status 400"):
        guard.generate(QUESTION, choices=["yes", "no"])


def test_max_tokens_cut_and_say_so(engine, guarded):
    result = guarded(engine("vllm")).generate(QUESTION, json_schema=PERSON, max_tokens=3)
    assert result.finish_reason == "length"
    assert result.text.startswith("{")


def test_a_bad_grammar_is_refused_before_anything_is_sent(engine, guarded):
    server = engine("vllm")
    guard = guarded(server)
    asked = len(server.bodies)
    with pytest.raises(ConfigurationError, match="regex cannot be followed"):
        guard.generate(QUESTION, regex="[0-9")
    assert len(server.bodies) == asked


# One text for all of a rule's grammars.


def rules():
    guard = tiny_guard()
    tokenizer = guard.components.policy.tokenizer
    plain = [rule(*next(iter(wish.items()))) for wish, _ in WISHES]
    syntax, tools = (
        prompted_syntax(tokenizer),
        as_tools([TOOL, {**TOOL, "function": {**TOOL["function"], "name": "a"}}]),
    )
    call = call_rule(tokenizer, syntax, tools, opening=syntax.before_name)
    assert call is not None
    return [*plain, call, *(or_calls(each, tokenizer, syntax, tools) for each in plain)]


def test_the_text_means_what_the_rule_means():
    """Followed side by side over random answers, both allow the same tokens at every place."""
    policy, dice, steps = tiny_guard().components.policy, random.Random(0), 0
    made = compiler(policy)
    for each in rules():
        text = as_lark(each)
        for _ in range(8):
            one = made(each)
            other = made(Rule("grammar", json.dumps([{"name": "answer", "lark_grammar": text}])))
            for _ in range(60):
                allowed = one.allowed()
                assert allowed == other.allowed()
                assert one.complete == other.complete
                tokens = [at for at in range(policy.tree.vocab_size) if allowed[at // 8] >> at % 8 & 1]
                tokens = [token for token in tokens if token not in policy.stop_ids]
                if not tokens:
                    break
                token = dice.choice(tokens)
                one, other, steps = one.after([token]), other.after([token]), steps + 1
    assert steps > 200
