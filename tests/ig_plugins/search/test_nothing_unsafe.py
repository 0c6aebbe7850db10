"""Whatever the policy says, no text leaves that the cost model has not passed."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.guards import MARKER, cost_of_marker, make_guard

LATE = "A perfectly good start that goes on for a while and then UNSAFE"
POLICIES = {
    "late": {LATE: 0.97, "Fine.": 0.03},
    "in most beams": {f"{n} words UNSAFE": 0.24 for n in ("One", "Two", "Ten")} | {"No.": 0.28},
    "at a block edge": {"12345678UNSAFE": 0.9, "12345678 safe": 0.1},
    "over a block edge": {"12345UNSAFE!": 0.9, "12345 safe": 0.1},
    "in the last block": {"x" * 26 + "UNSAFE": 0.9, "x" * 26 + " fine.": 0.1},
    "cut before it ends": {"x" * 25 + "UNSAFE and more of it": 0.7, "y" * 60: 0.3},
    "in a stop string": {"Good. STOP UNSAFE": 0.5, "UNSAFE STOP good": 0.4, "Nice. STOP": 0.1},
    "always": {"UNSAFE": 0.5, "Some UNSAFE words": 0.5},
    "first letters": {"UNSAFE": 0.6, "UNSAFe": 0.2, "UN": 0.2},
}


def judged(texts):
    assert not any(score > 0 for score in cost_of_marker([""] * len(texts), texts)), texts


def collect(guard, method, **options):
    """(released text, result) of one of the four ways to ask."""

    async def later():
        if method == "agenerate":
            return [], await guard.agenerate("Tell me.", **options)
        chunks = [chunk async for chunk in guard.astream("Tell me.", **options)]
        return [chunk.text for chunk in chunks], chunks[-1].result

    if method in ("agenerate", "astream"):
        return asyncio.run(later())
    if method == "generate":
        return [], guard.generate("Tell me.", **options)
    chunks = list(guard.stream("Tell me.", **options))
    return [chunk.text for chunk in chunks], chunks[-1].result


@pytest.mark.parametrize("method", ["generate", "stream", "agenerate", "astream"])
@pytest.mark.parametrize("policy", POLICIES)
def test_adversarial_policies(policy, method):
    guard = make_guard(POLICIES[policy], max_tokens=32, stop=["STOP"])
    blocked = []
    for seed in range(3):
        chunks, result = collect(guard, method, seed=seed)
        judged([result.text, "".join(chunks), *chunks])
        blocked.append(result.blocked)
        if not result.blocked:
            assert result.cost == -1.0
            assert "STOP" not in result.text
            assert MARKER not in guard.tokenizer.decode(result.token_ids)
    assert all(blocked) == (policy == "always")


@given(
    answers=st.lists(st.text("abUNSAFE .", min_size=1, max_size=24), min_size=1, max_size=5, unique=True),
    candidates=st.integers(1, 4),
    beams=st.integers(1, 4),
    block=st.integers(1, 7),
    longest=st.integers(1, 20),
    tries=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    stop=st.lists(st.text("abUN.", min_size=1, max_size=3), max_size=2),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_policy_and_any_settings(answers, candidates, beams, block, longest, tries, seed, stop):
    def forbids_an(prompts, responses):
        return [1.0 if "UN" in response else 0.0 for response in responses]

    guard = make_guard(
        {answer: 1 / len(answers) for answer in answers},
        cost=forbids_an,
        candidates=candidates,
        beams=min(beams, candidates),
        block_tokens=block,
        max_tokens=longest,
        tries=tries,
        stop=stop,
        seed=seed,
    )
    result = guard.generate("Say it.")
    chunks = list(guard.stream("Say it."))
    streamed = "".join(chunk.text for chunk in chunks)
    for text in (result.text, streamed, *(chunk.text for chunk in chunks)):
        assert "UN" not in text
    told = guard.tokenizer.decode(result.token_ids, skip_special_tokens=True)
    if not result.blocked:
        assert told.startswith(result.text)
        assert any(answer.startswith(result.text) for answer in answers)
        assert not any(word in result.text for word in stop)
        assert len(result.token_ids) <= longest
    last = chunks[-1].result
    if not (result.blocked or last.blocked):
        assert streamed == result.text
        assert last.model_dump(exclude={"seconds", "lag", "first_text_seconds"}) == result.model_dump(
            exclude={"seconds", "lag", "first_text_seconds"}
        )


def test_a_blocked_stream_ends_with_the_refusal_after_what_had_left():
    guard = make_guard({"Twelve chars UNSAFE": 1.0}, block_tokens=4, max_lag=1)
    chunks = list(guard.stream("Tell me.", refusal="No."))
    text = "".join(chunk.text for chunk in chunks)
    assert text.endswith("\n\nNo.")
    assert "Twelve chars UNSAFE".startswith(text.removesuffix("\n\nNo."))
    assert len(text) > len("\n\nNo.")
    assert chunks[-1].result.text == "No."
    assert chunks[-1].result.finish_reason == "content_filter"
    judged([text])


def test_a_judge_that_changes_its_mind_has_one_verdict_on_a_text():
    asked = []

    def fickle(prompts, responses):
        asked.append(list(zip(prompts, responses, strict=True)))
        return [float((-1) ** place) for place, _ in enumerate(responses)]  # unsafe, safe, unsafe, …

    guard = make_guard({"The only answer.": 1.0}, cost=fickle, max_tokens=32)
    for result in guard.generate(["Tell me.", "Tell me more."], on_block="refuse"):
        assert result.blocked
    assert all(len(batch) == len(set(batch)) for batch in asked)
