"""Judges of every kind: what they may say, and what happens when they fail. Fail closed, and only for who asked."""

import time

import pytest

from critic_models.safety import SafetyBudget
from ig_plugins.errors import DeadlineExceededError, JudgeError
from tests.kit.guards import cost_of_marker, make_guard
from tests.kit.observe import LeakScanner
from tests.kit.tiny import tiny_guard

ANSWER = "A harmless answer of some words."


def failing_after(good, kind):
    """A cost model that works ``good`` times and then fails in one of the ways that judges fail."""
    calls = []

    def cost(prompts, responses):
        calls.append(1)
        if len(calls) <= good:
            return [-1.0] * len(responses)
        if kind == "raise":
            raise RuntimeError("the judge has a cold")
        if kind == "slow":
            time.sleep(60)
        bad = {"nan": [float("nan")] * len(responses), "short": [0.0] * (len(responses) - 1), "none": None}
        return bad.get(kind, [0.0] * len(responses))

    return cost


FAILURES = {
    "nan": (JudgeError, "'marker' scored response 0 as nan; every score must be a finite number"),
    "short": (JudgeError, "'marker' returned 0 scores for 1 responses"),
    "none": (JudgeError, "'marker' returned NoneType; it must return a list"),
    "raise": (JudgeError, "'marker' raised RuntimeError"),
    "slow": (DeadlineExceededError, r"no verified answer within the timeout of 0\.1 s"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_judge_lets_no_text_out(kind):
    error, message = FAILURES[kind]
    guard = make_guard({ANSWER: 1.0}, cost=failing_after(0, kind), timeout=0.1 if kind == "slow" else None)
    healthy = make_guard({ANSWER: 1.0})
    with pytest.raises(error, match=message):
        guard.generate("Go.")
    assert healthy.generate("Go.").text == ANSWER
    started = time.monotonic()
    with pytest.raises(error):
        list(guard.stream("Go."))
    assert time.monotonic() - started < 30  # not the judge's minute


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_stream_ends_with_the_error_after_part_of_it_has_left(kind):
    error, _ = FAILURES[kind]
    options = {"block_tokens": 4, "beams": 1, "timeout": 3.0 if kind == "slow" else None}
    guard = make_guard({ANSWER: 1.0}, cost=failing_after(2, kind), **options)
    told = []
    with pytest.raises(error):
        told.extend(chunk.text for chunk in guard.stream("Go."))
    assert told == [ANSWER[:4], ANSWER[4:8]]
    guard = make_guard({ANSWER: 1.0}, cost=failing_after(2, kind), **options)
    told = []

    async def listen():
        async for chunk in guard.astream("Go."):
            told.append(chunk.text)

    with pytest.raises(error):
        await listen()
    assert told == [ANSWER[:4], ANSWER[4:8]]


def test_a_failing_reward_lets_no_text_out_either():
    guard = make_guard({ANSWER: 1.0}, reward=lambda p, r: [float("inf")] * len(r))
    with pytest.raises(JudgeError, match="finite"):
        guard.generate("Go.")


def test_the_worker_serves_the_next_request_after_a_failure():
    guard = make_guard({ANSWER: 1.0}, cost=failing_after(1, "raise"))
    with pytest.raises(JudgeError):
        guard.generate("Go.")
    recovering = make_guard({ANSWER: 1.0}, cost=cost_of_marker)
    recovering.components.costs["marker"].function = failing_after(0, "nan")
    with pytest.raises(JudgeError):
        recovering.generate("Go.")
    recovering.components.costs["marker"].function = cost_of_marker
    assert recovering.generate("Go.").text == ANSWER


def test_messages_name_the_judge_and_quote_nobody():
    guard = make_guard({ANSWER: 1.0}, cost=failing_after(0, "nan"))
    question = "A secret question"
    with LeakScanner() as scanner, pytest.raises(JudgeError) as caught:
        guard.generate(question)
    scanner.see("error", str(caught.value), caught.value.args, vars(caught.value))
    assert scanner.find("secret question") == []
    assert scanner.find("harmless answer") == []


@pytest.mark.parametrize("accounting", ["worst", "cumulative"])
def test_a_judge_of_texts_counts_scores_so_far(accounting):
    """Cumulative: blocks cost what they add, and their sum is the score of the whole, however it was cut."""

    def a_tenth_a_letter(prompts, responses):
        return [len(text) / 10 for text in responses]

    for block in (3, 7, 40):
        guard = make_guard(
            {ANSWER: 1.0},
            cost=a_tenth_a_letter,
            budget=SafetyBudget(limit=4.0, discount=1.0, accounting=accounting),
            block_tokens=block,
        )
        result = guard.generate("Go.")
        assert result.cost == pytest.approx(3.2)
        assert result.safety_state == pytest.approx(0.8)
        assert result.accounting == {"marker": accounting}
        costs = [record.cost for record in result.blocks]
        assert (sum if accounting == "cumulative" else max)(costs) == pytest.approx(3.2, abs=1e-5)
        assert guard.generate("Go.", budget=3.1).blocked


def test_worst_is_safe_up_to_and_with_its_limit_and_cumulative_below():
    even = make_guard({"abc": 1.0}, cost=lambda p, r: [float(len(t)) for t in r])
    assert not even.generate("Go.", budget=SafetyBudget(limit=3.0, accounting="worst")).blocked
    assert even.generate("Go.", budget=SafetyBudget(limit=3.0, discount=1.0)).blocked
    assert not even.generate("Go.", budget=SafetyBudget(limit=3.001, discount=1.0)).blocked


def test_any_time_forbids_a_detour_that_terminal_allows():
    def detour(prompts, responses):
        return [{3: 5.0}.get(len(text), -1.0) for text in responses]

    budget = {"limit": 2.0, "discount": 1.0}
    guard = make_guard({"abcdef": 1.0}, cost=detour, block_tokens=3)
    assert guard.generate("Go.", budget=SafetyBudget(**budget)).blocked
    terminal = SafetyBudget(**budget, reading="terminal")
    assert guard.generate("Go.", budget=terminal, block_tokens=8).text == "abcdef"
    assert guard.generate("Go.", budget=terminal).blocked  # an open block ends unsafe: nothing may go on from there


def test_safe_only_if_all_cost_models_say_so():
    def no_letter(letter):
        return lambda prompts, responses: [float(letter in text) for text in responses]

    worst = SafetyBudget(limit=0.0, accounting="worst")
    guard = tiny_guard(costs={"e": no_letter("e"), "o": no_letter("o")}, budgets=[worst, worst], reward=None)
    for seed in range(4):
        result = guard.generate("Go.", seed=seed)
        assert result.blocked or not set("eo") & set(result.text)
        assert set(result.accounting) == {"e", "o"}
    never = tiny_guard(costs={"e": no_letter("e"), "never": lambda p, r: [1.0] * len(r)}, budgets=[worst, worst])
    assert never.generate("Go.").blocked


def test_without_a_reward():
    result = make_guard({ANSWER: 1.0}, reward=None).generate("Go.")
    assert (result.text, result.reward) == (ANSWER, None)
