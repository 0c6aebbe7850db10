"""The async methods leave the event loop free, and leaving them frees the model."""

import asyncio
import time

import pytest

from ig_plugins.errors import GuardBlockedError
from llama_index.llms.inferenceguard import InferenceGuardLLM, PromptTooLongError
from tests.adapters.llama_index_.guards import MARK, scripted_guard
from tests.adapters.llama_index_.methods import METHODS, call
from tests.kit.observe import count_ticks, fan_out
from tests.kit.slow import slow_guard

ANSWER = "one two three four five six seven eight nine ten"
ASYNC = [name for name in METHODS if name.startswith("a")]


@pytest.mark.parametrize("method", ASYNC)
async def test_loop_keeps_ticking(method):
    llm = InferenceGuardLLM.from_guard(slow_guard({ANSWER: 1.0}))
    seen = await count_ticks(call(llm, method, "hi"))
    assert seen.result[-1].text == ANSWER
    assert seen.ticks > 20  # in about 50 steps of 10 ms; a blocked loop shows none


@pytest.mark.parametrize("method", ["achat", "acomplete"])
async def test_cancelling_stops_decoding_within_a_block(method):
    guard = slow_guard({"x" * 400: 1.0}, step_seconds=0.005, max_tokens=500)
    llm = InferenceGuardLLM.from_guard(guard)
    task = asyncio.create_task(call(llm, method, "hi"))
    while guard.components.policy.tree.steps < 4:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _assert_decoding_stops(guard)


@pytest.mark.parametrize("method", ["astream_chat", "astream_complete"])
async def test_leaving_an_async_stream_stops_decoding(method):
    guard = slow_guard({"x" * 400: 1.0}, step_seconds=0.005, max_tokens=500)
    llm = InferenceGuardLLM.from_guard(guard)
    stream = await getattr(llm, method)(*_asked(method))
    async for _ in stream:
        break
    await stream.aclose()
    await _assert_decoding_stops(guard)


@pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
async def test_leaving_a_stream_stops_decoding(method):
    guard = slow_guard({"x" * 400: 1.0}, step_seconds=0.005, max_tokens=500)
    llm = InferenceGuardLLM.from_guard(guard)
    stream = getattr(llm, method)(*_asked(method))
    next(stream)
    stream.close()
    await _assert_decoding_stops(guard)


def _asked(method):
    from llama_index.core.base.llms.types import ChatMessage

    return [[ChatMessage(content="hi")]] if "chat" in method else ["hi"]


async def _assert_decoding_stops(guard):
    await asyncio.sleep(0.1)
    steps = guard.components.policy.tree.steps
    await asyncio.sleep(0.3)
    assert guard.components.policy.tree.steps == steps < 400, "decoding went on after the caller had left"
    assert (await guard.agenerate("hi", max_tokens=2)).text == "xx", "the model is not free again"


async def test_timeout_is_one_call_s():
    llm = InferenceGuardLLM.from_guard(slow_guard({ANSWER: 1.0}, step_seconds=0.02))
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        await llm.acomplete("hi", timeout=0.1)
    assert time.perf_counter() - started < 10.0
    assert (await llm.acomplete("hi")).text == ANSWER


def _own(prompt):
    """The answer that belongs to a prompt: its number, spelled out, so that no answer fits another caller."""
    return {f"answer to {prompt.split()[1]}": 1.0}


def test_32_threads_get_their_own_answers():
    llm = InferenceGuardLLM.from_guard(scripted_guard(_own))
    numbers = [f"n{i}" for i in range(32)]
    assert fan_out(lambda n: llm.complete(n).text, numbers, threads=32) == [f"answer to {n}" for n in numbers]


async def test_32_tasks_get_their_own_answers():
    llm = InferenceGuardLLM.from_guard(scripted_guard(_own))

    async def ask(index):
        method = ASYNC[index % len(ASYNC)]
        return (await call(llm, method, f"n{index}"))[-1].text

    answers = await asyncio.gather(*(ask(i) for i in range(32)))
    assert answers == [f"answer to n{i}" for i in range(32)]


@pytest.mark.parametrize("method", ASYNC)
async def test_one_prompts_error_is_its_own(method):
    """LlamaIndex has no batch: calls that run beside one another fail one by one."""
    guard = scripted_guard(lambda prompt: {MARK if "blocked" in prompt else ANSWER: 1.0}, on_block="raise")
    llm = InferenceGuardLLM.from_guard(guard)
    prompts = ["good", "blocked", "x" * 9000, "good"]
    found = await asyncio.gather(*(call(llm, method, prompt) for prompt in prompts), return_exceptions=True)
    assert [found[0][-1].text, found[3][-1].text] == [ANSWER, ANSWER]
    assert isinstance(found[1], GuardBlockedError)
    assert isinstance(found[2], PromptTooLongError)


@pytest.mark.parametrize("method", [name for name in METHODS if "stream" in name])
async def test_a_streams_time_runs_from_its_first_item(method):
    llm = InferenceGuardLLM.from_guard(scripted_guard({ANSWER: 1.0}), timeout=0.5)
    stream = getattr(llm, method)(*_asked(method))
    stream = await stream if method.startswith("a") else stream
    await asyncio.sleep(0.7)
    items = [item async for item in stream] if method.startswith("a") else list(stream)
    assert items[-1].message.content == ANSWER if "chat" in method else items[-1].text == ANSWER
