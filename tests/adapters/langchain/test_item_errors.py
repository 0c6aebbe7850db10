"""`return_exceptions` as LangChain defines it: an exception stands where its own prompt's answer would."""

import threading

import pytest

from ig_plugins.errors import DeadlineExceededError, GuardBlockedError, JudgeError, PromptError
from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM
from tests.adapters.langchain.conftest import Watcher
from tests.kit.guards import MARKER, cost_of_marker, make_guard
from tests.kit.slow import slow_guard

GOOD = "Good."
PROMPTS = ["good", "", "blocked", "poison", "x" * 9000, "good"]
ERRORS = [None, PromptError, GuardBlockedError, JudgeError, PromptError, None]


def judge(prompts, responses):
    if any("poison" in prompt for prompt in prompts):
        raise ValueError("no")
    return cost_of_marker(prompts, responses)


@pytest.fixture(params=[InferenceGuardLLM, ChatInferenceGuard])
def model(request):
    def answers(prompt):
        return {f"{MARKER} it" if "blocked" in prompt else GOOD: 1.0}

    return request.param.from_guard(make_guard(answers, cost=judge, chat=True), on_block="raise")


def check(found):
    for each, error in zip(found, ERRORS, strict=True):
        if error is None:
            assert getattr(each, "content", each) == GOOD
        else:
            assert isinstance(each, error)


@pytest.mark.parametrize("config", [None, {"max_concurrency": 2}])
async def test_every_prompt_has_its_own_answer_or_error(model, config):
    check(model.batch(PROMPTS, config, return_exceptions=True))
    check(await model.abatch(PROMPTS, config, return_exceptions=True))


async def test_as_completed_too(model):
    check([each for _, each in sorted(model.batch_as_completed(PROMPTS, return_exceptions=True), key=lambda p: p[0])])
    later = [pair async for pair in model.abatch_as_completed(PROMPTS, return_exceptions=True)]
    check([each for _, each in sorted(later, key=lambda pair: pair[0])])


async def test_without_it_an_error_is_raised(model):
    for prompts, error in ((["good", ""], PromptError), (["good", "poison"], JudgeError)):
        with pytest.raises(error):
            model.batch(prompts)
        with pytest.raises(error):
            await model.abatch(prompts)


def test_callbacks_hear_the_error_of_their_own_run(model):
    watcher = Watcher()
    model.batch(["good", "poison", "good"], {"callbacks": [watcher]}, return_exceptions=True)
    assert [type(error) for error in watcher.named("error")] == [JudgeError]
    assert len([end for end in watcher.named("end") if end.generations]) == 2


def test_all_prompts_are_decoded_together_whatever_the_number_of_processors(monkeypatch):
    everybody = threading.Barrier(20)
    guard = make_guard({GOOD: 1.0}, chat=True)
    model = InferenceGuardLLM.from_guard(guard)
    original = type(guard).generate

    def meeting(self, *given, **named):
        everybody.wait(20)  # breaks where fewer threads than prompts are under way
        return original(self, *given, **named)

    monkeypatch.setattr(type(guard), "generate", meeting)
    assert model.batch([f"number {n}" for n in range(20)], return_exceptions=True) == [GOOD] * 20


def test_a_deadline_is_one_prompts_error():
    guard = slow_guard(lambda prompt: {"word " * (300 if "long" in prompt else 2): 1.0}, max_tokens=1500)
    found = InferenceGuardLLM.from_guard(guard).batch(["long", "short"], return_exceptions=True, timeout=1.0)
    assert isinstance(found[0], DeadlineExceededError)
    assert found[1] == "word word "


async def test_without_on_block_raise_as_well():
    model = InferenceGuardLLM.from_guard(make_guard({GOOD: 1.0}, cost=judge, chat=True))
    for found in (
        model.batch(["good", "poison", "good"], return_exceptions=True),
        await model.abatch(["good", "poison", "good"], return_exceptions=True),
    ):
        assert found[0] == found[2] == GOOD
        assert isinstance(found[1], JudgeError)
