"""What may be set, and what the user reads when it may not."""

import asyncio

import pytest

from critic_models.safety import SafetyBudget
from ig_plugins.errors import ConfigurationError, PromptError
from ig_plugins.guard.options import Options, as_budgets
from tests.kit.guards import make_guard
from tests.kit.tiny import tiny_guard

BAD = {
    "beams": ({"beams": 9}, "beams is 9 and candidates 8; keep at most as many beams as there are candidates"),
    "block": ({"block_tokens": 0}, "block_tokens is 0: Input should be greater than or equal to 1"),
    "tries": ({"tries": 0}, "tries is 0"),
    "max_tokens": ({"max_tokens": -1}, "max_new_tokens is -1"),
    "temperature": ({"temperature": float("nan")}, "temperature is nan"),
    "top_p": ({"top_p": 0.0}, r"top_p is 0\.0"),
    "min_p": ({"min_p": 2.0}, r"min_p is 2\.0"),
    "seed": ({"seed": -1}, "seed is -1"),
    "timeout": ({"timeout": 0}, "timeout is 0: Input should be greater than 0"),
    "on_block": ({"on_block": "explode"}, "on_block is 'explode': Input should be 'refuse', 'raise' or 'empty'"),
    "selection": ({"selection": "best"}, "selection is 'best': Input should be 'reward' or 'hedged'"),
    "stop": ({"stop": [7]}, r"stop\.0 is 7"),
    "nan budget": ({"budget": float("nan")}, "budget limit is nan; give a finite number"),
    "budget text": ({"budget": "much"}, "limit is 'much'"),
    "two budgets": ({"budget": [1.0, 2.0]}, r"2 budget\(s\) for 1 cost model\(s\); give one budget for each"),
}


@pytest.fixture(scope="module")
def guard():
    return make_guard({"Fine.": 1.0})


@pytest.mark.parametrize("kind", BAD)
def test_bad_values_are_named_with_what_is_allowed(guard, kind):
    overrides, message = BAD[kind]
    for ask in (guard.generate, guard.stream):
        with pytest.raises(ConfigurationError, match=message):
            ask("Go.", **overrides)
    with pytest.raises(ConfigurationError, match=message):
        guard.with_options(**overrides)
    with pytest.raises(ConfigurationError, match=message):
        asyncio.run(guard.agenerate("Go.", **overrides))


@pytest.mark.parametrize("limit", [0, 0.0, -1.0])
def test_a_cumulative_budget_must_leave_something_to_spend(limit):
    guard = make_guard(budget=SafetyBudget(limit=1.0))
    with pytest.raises(ConfigurationError, match=r"cumulative budget limit is .*; it must be above 0.*worst"):
        guard.generate("Go.", budget=limit)
    assert make_guard().with_options(budget=limit).budget.limit == limit  # worst: any finite limit


def test_unknown_options_are_type_errors_that_list_the_known(guard):
    for ask in (guard.generate, guard.stream):
        with pytest.raises(
            TypeError,
            match=r"unknown option 'beam'; the options are .*beams, block_tokens, budget.* Did you mean 'beams'",
        ):
            ask("Go.", beam=3)
    with pytest.raises(TypeError, match="unknown option 'budgets'"):
        guard.with_options(budgets=[1.0])
    with pytest.raises(TypeError, match="unknown option 'search'"):
        asyncio.run(guard.agenerate("Go.", search=None))


def test_none_leaves_a_setting_as_it_is_but_seed_and_timeout():
    options = Options().updated(seed=4, timeout=2.0, max_tokens=9, stop="end")
    assert options.stop == ("end",)
    same = options.updated(max_tokens=None, stop=None, temperature=None)
    assert same == options
    free = options.updated(seed=None, timeout=None)
    assert (free.search.seed, free.timeout) == (None, None)


def test_a_bare_limit_keeps_the_accounting():
    defaults = (SafetyBudget(limit=3.0, discount=0.5), SafetyBudget(limit=0.0, accounting="worst"))
    first, second = as_budgets([1, SafetyBudget(limit=2.0)], defaults)
    assert (first.limit, first.discount, first.accounting) == (1.0, 0.5, "cumulative")
    assert second == SafetyBudget(limit=2.0)


def test_an_endless_timeout_is_none(guard):
    assert guard.generate("Go.", timeout=float("inf")).text == "Fine."
    assert asyncio.run(guard.agenerate("Go.", timeout=1e12)).text == "Fine."


PROMPTS = {
    "empty": ("", "empty user message"),
    "blank": ("  \n", "empty user message"),
    "a number": (7, "the prompt is of type int; give a text, messages, or a list of these"),
    "no list": ([], "the list of prompts is empty"),
    "a number in a list": (["fine", 7], "the prompt is of type int"),
    "bytes": (b"hello", "the prompt is of type int"),
    "no user": ([{"role": "assistant", "content": "x"}], "no user message"),
    "a role": ([{"role": "robot", "content": "x"}], "the role 'robot'; allowed are system, user, assistant, tool"),
    "a key": ([{"role": "user", "content": "x", "mood": 1}], "unknown key 'mood'"),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_that_cannot_be_answered(guard, kind):
    prompt, message = PROMPTS[kind]
    steps = guard.components.policy.tree.steps
    with pytest.raises(PromptError, match=message):
        guard.generate(prompt)
    with pytest.raises(PromptError, match=message):
        asyncio.run(guard.agenerate(prompt))
    assert guard.components.policy.tree.steps == steps


def test_a_prompt_longer_than_the_shortest_context():
    guard = tiny_guard()
    assert guard.context == 512
    with pytest.raises(
        PromptError, match=r"prompt has 5\d\d tokens and the answer may have 20, but the context holds 512"
    ):
        guard.generate("x" * 460)
    with pytest.raises(PromptError, match="shorten the prompt, or lower max_tokens"):
        guard.stream("x", max_tokens=500)
    assert not guard.generate("x" * 440, max_tokens=5, budget=500.0).blocked


def test_raw_prompts_go_to_the_policy_as_they_are():
    guard = make_guard(lambda prompt: {f"<{prompt}>": 1.0})
    assert guard.generate("as it is", raw_prompt=True).text == "<as it is>"
    assert "USER: as it is" in guard.generate("as it is").text
    seen = []
    watching = make_guard({"x": 1.0}, cost=lambda p, r: seen.extend(p) or [0.0] * len(p))
    watching.generate("as it is", raw_prompt=True)
    assert set(seen) == {"as it is"}
    for bad in ("", [{"role": "user", "content": "x"}]):
        with pytest.raises(PromptError, match="raw_prompt=True needs a non-empty text"):
            guard.generate([bad], raw_prompt=True)
