"""Errors by item, typed, and no more of them than prompts that deserve one."""

import asyncio
import time

import pytest
import torch
from transformers import LogitsProcessor

from critic_models.safety import SafetyBudget
from ig_plugins.errors import (
    DeadlineExceededError,
    DecodingError,
    GuardBlockedError,
    InferenceGuardError,
    JudgeError,
    LogitsProcessorError,
    NotEnoughMemoryError,
    PromptError,
)
from ig_plugins.runtime import worker
from tests.kit.guards import MARKER, cost_of_marker, make_guard
from tests.kit.slow import slow_guard
from tests.kit.tiny import tiny_guard

GOOD = "Good."


def answers(prompt):
    return {f"{MARKER} it" if "blocked" in prompt else GOOD: 1.0}


def judge(prompts, responses):
    if any("poison" in prompt for prompt in prompts):
        raise ValueError("no")
    return cost_of_marker(prompts, responses)


PROMPTS = ["good", "", "blocked", "x" * 9000, "poison", 7, [{"role": "nobody", "content": "Go."}], "good"]
ERRORS = [None, PromptError, GuardBlockedError, PromptError, JudgeError, Exception, PromptError, None]


async def test_every_prompt_of_a_list_has_its_own_error():
    guard = make_guard(answers, cost=judge, on_block="raise")
    for found in (
        guard.generate(PROMPTS, return_exceptions=True),
        await guard.agenerate(PROMPTS, return_exceptions=True),
    ):
        assert [found[0].text, found[-1].text] == [GOOD, GOOD]
        for each, error in zip(found, ERRORS, strict=True):
            assert error is None or isinstance(each, error)


async def test_without_it_the_first_error_is_raised():
    guard = make_guard(answers, cost=judge, on_block="raise")
    model = guard.components.policy.tree
    for prompts, error in ((["good", "blocked", "poison"], GuardBlockedError), (["good", "poison"], JudgeError)):
        with pytest.raises(error):
            guard.generate(prompts)
        with pytest.raises(error):
            await guard.agenerate(prompts)
    model.steps = 0
    with pytest.raises(PromptError):
        guard.generate(["good", ""])
    assert model.steps == 0  # known before anything is decoded


def test_after_the_first_error_the_others_are_given_up():
    """Nobody waits for them any more, so that they must not be decoded to their ends."""
    guard = slow_guard(lambda prompt: {"word " * (600 if "long" in prompt else 2): 1.0}, cost=judge, max_tokens=3000)
    with pytest.raises(JudgeError):
        guard.generate(["poison", "long"])
    end = time.monotonic() + 10  # the long one alone takes longer
    while worker()._lines:
        assert time.monotonic() < end
        time.sleep(0.05)


async def test_a_single_prompt_raises_in_any_case_and_so_does_a_wrong_call():
    guard = make_guard(answers)
    with pytest.raises(PromptError):
        guard.generate("", return_exceptions=True)
    with pytest.raises(PromptError):
        await guard.agenerate("", return_exceptions=True)
    with pytest.raises(TypeError, match="unknown option"):
        guard.generate(["good"], return_exceptions=True, beam=3)


def test_a_deadline_is_an_error_of_one_item():
    guard = slow_guard(lambda prompt: {"word " * (300 if "long" in prompt else 2): 1.0}, max_tokens=1500)
    long, short = guard.generate(["long", "short"], timeout=1.0, return_exceptions=True)
    assert isinstance(long, DeadlineExceededError)
    assert short.text == "word word "


# ---- time ----


async def test_a_streams_time_runs_from_the_first_next():
    guard = make_guard(answers)
    stream, later = guard.stream("good", timeout=0.5), guard.astream("good", timeout=0.5)
    time.sleep(0.7)
    assert "".join(chunk.text for chunk in stream) == GOOD
    assert "".join([chunk.text async for chunk in later]) == GOOD
    slow = slow_guard({"word " * 300: 1.0}, max_tokens=1500)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        list(slow.stream("Go.", timeout=0.3))
    assert 0.3 <= time.monotonic() - started < 5


async def test_what_was_ready_in_time_reaches_a_slow_reader():
    guard = make_guard({"word " * 6: 1.0}, beams=1)
    told = []
    async for chunk in guard.astream("Go.", timeout=1.0):
        if not told:
            await asyncio.sleep(1.5)
        told.append(chunk.text)
    assert "".join(told) == "word " * 6


# ---- numbers that overflow ----

HUGE = {"1e300": 1e300, "-1e300": -1e300, "many digits": 10**400, "-many digits": -(10**400)}


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("accounting", ["worst", "cumulative"])
def test_scores_that_overflow_are_refused(huge, accounting):
    guard = make_guard(
        {"word word": 1.0},
        cost=lambda p, r: [HUGE[huge]] * len(r),
        budget=SafetyBudget(limit=1.0, accounting=accounting),
    )
    with pytest.raises(JudgeError, match=r"scored response 0 as -?(1e\+300|inf); .* between -1e\+30 and 1e\+30"):
        guard.generate("Go.")
    with pytest.raises(JudgeError):
        make_guard({"word": 1.0}, reward=lambda p, r: [HUGE[huge]] * len(r)).generate("Go.")


def test_the_largest_scores_never_make_an_unsafe_answer_safe():
    """Up and down again: the balance stays a number, and the last step counts."""
    largest = {4: -1e30, 8: 1e30, 12: 1e30}

    def swings(prompts, responses):
        return [largest.get(len(text), 1e30) for text in responses]

    budget = SafetyBudget(limit=1.0, discount=0.5)
    assert make_guard({"abcdefghijkl": 1.0}, cost=swings, budget=budget, block_tokens=4).generate("Go.").blocked


@pytest.mark.parametrize(
    "raw", [torch.ones(8, 2), torch.ones(()), [torch.ones(2)] * 8, [1j] * 8, torch.tensor([float("nan")] * 8)]
)
def test_arrays_that_are_no_scores_are_refused(raw):
    with pytest.raises(JudgeError):
        make_guard({"word": 1.0}, cost=lambda p, r: raw).generate("Go.")


# ---- code of the caller's, and memory ----


class Careless(LogitsProcessor):
    def __init__(self, kind):
        self.kind = kind

    def __call__(self, ids, scores):
        if self.kind == "raises":
            raise KeyError("a secret token")
        return {"shape": scores[:, :3], "none": None, "ids": ids}[self.kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "logits processor Careless raised KeyError"),
        ("shape", "logits processor Careless returned .*; it must return scores of shape"),
        ("none", "logits processor Careless returned NoneType"),
        ("ids", "logits processor Careless returned"),
    ],
)
def test_a_logits_processor_that_fails_is_named(kind, message):
    guard = make_guard(answers)
    with pytest.raises(LogitsProcessorError, match=message) as caught:
        guard.generate("good", logits_processors=[Careless(kind)])
    assert "secret" not in str(caught.value)
    assert kind != "raises" or isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(InferenceGuardError):
        list(guard.stream("good", logits_processors=[Careless(kind)]))


def test_a_failing_logits_processor_costs_others_nothing():
    """A stream of which text has left could not begin anew."""
    guard = make_guard({"word " * 20: 1.0}, beams=1)
    stream = guard.prepare("one", stream=True)

    class Later(LogitsProcessor):
        def __call__(self, ids, scores):
            if ids.shape[1] > 60:
                raise RuntimeError
            return scores

    careless = guard.prepare("two", logits_processors=[Later()])
    worker().submit([stream, careless])
    assert stream.result().text == "word " * 20
    with pytest.raises(LogitsProcessorError):
        careless.result()


OUT = {
    "MemoryError": MemoryError(),
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "host": RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
}


@pytest.mark.parametrize("kind", OUT)
def test_too_little_memory_is_a_typed_error(kind, monkeypatch):
    guard = tiny_guard()

    def extend(self, *given, **named):
        raise OUT[kind]

    def feed(self, *given, **named):
        raise OUT[kind]

    session = type(guard.components.policy.tree.prefill([[1]], lanes=1, block=1, max_new=1))
    monkeypatch.setattr(session, "extend", extend)
    monkeypatch.setattr(session, "append", feed)
    with pytest.raises(NotEnoughMemoryError, match="not enough memory to decode; ask for fewer candidates") as caught:
        guard.generate("Go.")
    assert caught.value.__cause__ is OUT[kind]
    assert isinstance(caught.value, MemoryError)


def test_an_error_that_nobody_foresaw_is_typed_and_quotes_nobody():
    def broken(prompt):
        raise LookupError(prompt)

    with pytest.raises(DecodingError, match="decoding failed with LookupError") as caught:
        make_guard(broken).generate("A secret question")
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, LookupError)


# ---- what a refusal says of the search ----


@pytest.mark.parametrize(("tries", "made"), [(1, 1), (2, 4), (3, 9)])
def test_the_reason_tells_the_tries_that_were_made(tries, made):
    asked = []

    def never(prompts, responses):
        asked.append(len(responses))
        return [1.0] * len(responses)

    result = make_guard(answers, cost=never, reward=None).generate("good", tries=tries)
    assert result.reason == f"no candidate of 8 passed the cost model in {made} tries"
    assert len(asked) == made  # a try is one call of this judge
