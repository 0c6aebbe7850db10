"""When nothing passes: a refusal that is marked as one, an exception, or nothing; never a word of the policy's."""

import pytest

from ig_plugins.errors import GuardBlockedError
from ig_plugins.guard.options import REFUSAL
from tests.kit.guards import make_guard
from tests.kit.observe import LeakScanner

ANSWER = "Some UNSAFE words"


@pytest.fixture
def guard():
    return make_guard({ANSWER: 1.0})


def test_the_refusal_is_marked(guard):
    result = guard.generate("Tell me.")
    assert (result.text, result.blocked, result.finish_reason) == (REFUSAL, True, "content_filter")
    assert "no candidate of 8 passed the cost model in 4 tries" in result.reason
    assert (result.cost, result.reward, result.safety_state, result.blocks) == (None, None, None, ())
    assert result.token_ids == ()
    assert result.usage.completion_tokens == 0
    assert result.usage.candidate_tokens > 0
    assert result.usage.judge_calls > 0


def test_other_words_and_no_words(guard):
    assert guard.generate("Tell me.", refusal="Rather not.").text == "Rather not."
    empty = guard.generate("Tell me.", on_block="empty")
    assert (empty.text, empty.blocked) == ("", True)
    assert "".join(chunk.text for chunk in guard.stream("Tell me.", on_block="empty", block_tokens=32)) == ""


async def test_the_exception_carries_a_report_without_text(guard):
    errors = []
    strict = guard.with_options(on_block="raise")
    with pytest.raises(GuardBlockedError, match="blocked: no candidate") as caught:
        strict.generate("My secret question")
    errors.append(caught.value)
    with pytest.raises(GuardBlockedError) as caught:
        list(strict.stream("My secret question"))
    errors.append(caught.value)
    with pytest.raises(GuardBlockedError) as caught:
        await strict.agenerate("My secret question")
    errors.append(caught.value)
    with pytest.raises(GuardBlockedError) as caught:
        async for _ in strict.astream("My secret question"):
            pass
    errors.append(caught.value)
    for error in errors:
        assert error.report["blocked"] is True
        assert "text" not in error.report
        scanner = LeakScanner()
        scanner.see("error", str(error), error.report, error.args)
        assert scanner.find("UNSAFE") == []
        assert scanner.find("secret") == []


def test_one_blocked_prompt_of_a_batch_blocks_no_other():
    guard = make_guard(lambda prompt: {ANSWER if "bad" in prompt else "Good.": 1.0})
    results = guard.generate(["good", "bad", "good"])
    assert [result.blocked for result in results] == [False, True, False]
    assert results[0].text == results[2].text == "Good."


def test_nothing_is_logged_about_prompt_or_answer(guard):
    with LeakScanner() as scanner:
        guard.generate("My secret question")
        list(guard.stream("My secret question"))
        with pytest.raises(GuardBlockedError):
            guard.generate("My secret question", on_block="raise")
    assert scanner.find("secret") == []
    assert scanner.find("UNSAFE") == []


async def test_a_prepared_request_is_blocked_as_its_own_call_says(guard):
    with pytest.raises(GuardBlockedError):
        [chunk async for chunk in guard.follow(guard.prepare("Tell me.", on_block="raise"))]
    told = [chunk.result async for chunk in guard.follow(guard.prepare("Tell me.", on_block="empty"))]
    assert told[-1].blocked
    strict = guard.with_options(on_block="raise")
    told = [chunk.result async for chunk in strict.follow(strict.prepare("Tell me.", on_block="refuse"))]
    assert told[-1].text == REFUSAL
