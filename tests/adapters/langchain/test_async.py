"""The event loop goes on, waiting callers share the model, deadlines hold."""

import asyncio

import pytest
from langchain_core.messages import HumanMessage

from ig_plugins.errors import DeadlineExceededError
from tests.kit.observe import count_ticks, fan_out

LONG, SHORT = "word " * 60, "word " * 12


def echo(prompt: str) -> dict[str, float]:
    turn = prompt.split("user\n")[-1].split("\nassistant")[0]
    return {f"You said {turn.split()[-1]}.": 1.0}


async def drained(stream):
    return [piece async for piece in stream]


@pytest.fixture(params=["llm", "chat"])
def make(request, make_llm, make_chat):
    return make_llm if request.param == "llm" else make_chat


async def test_the_event_loop_ticks_during_every_async_call(make):
    model = make({SHORT: 1.0}, step_seconds=0.005)
    calls = [
        model.ainvoke("Hello"),
        model.abatch(["Hello", "Hey"]),
        model.agenerate([[HumanMessage("Hello")]] if "Chat" in type(model).__name__ else ["Hello"]),
        drained(model.astream("Hello")),
        drained(model.astream_events("Hello", version="v2")),
    ]
    for call in calls:
        seen = await count_ticks(call)
        assert seen.ticks >= 10  # in about 60 steps of 5 ms


async def test_v3_events_do_not_block_the_loop(make_chat):
    async def run():
        stream = await make_chat({SHORT: 1.0}, step_seconds=0.005).astream_events("Hello", version="v3")
        return await stream.output

    seen = await count_ticks(run())
    assert seen.result.text == SHORT
    assert seen.ticks >= 10


async def test_32_tasks_share_one_instance(make):
    model = make(echo)
    words = [f"word{number}" for number in range(32)]
    answers = await asyncio.gather(*[model.ainvoke(f"Say {word}") for word in words])
    assert [getattr(a, "content", a) for a in answers] == [f"You said {word}." for word in words]


def test_32_threads_share_one_instance(make):
    model = make(echo)
    words = [f"word{number}" for number in range(32)]
    answers = fan_out(lambda word: model.invoke(f"Say {word}"), words, threads=32)
    assert [getattr(a, "content", a) for a in answers] == [f"You said {word}." for word in words]


def test_a_chats_batch_is_decoded_together(make_chat):
    chat = make_chat(echo)
    policy = chat.guard.components.policy.tree
    chat.invoke("Say word")
    alone, policy.steps = policy.steps, 0
    chat.batch([f"Say word{number}" for number in range(8)], {"max_concurrency": 8})
    assert policy.steps < 8 * alone


async def test_one_cancelled_caller_leaves_the_others_alone(make):
    model = make(lambda prompt: {LONG: 1.0}, max_tokens=400)
    tasks = [asyncio.create_task(model.ainvoke(f"Hello {number}")) for number in range(4)]
    await asyncio.sleep(0.05)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [getattr(a, "content", a) for a in answers[1:]] == [LONG] * 3


async def test_a_timeout_ends_the_call_without_text(make):
    model = make({SHORT: 1.0}, step_seconds=0.02, fields={"timeout": 0.1})
    with pytest.raises(DeadlineExceededError) as caught:
        model.invoke("Hello")
    assert "word" not in str(caught.value)
    with pytest.raises(DeadlineExceededError):
        await model.ainvoke("Hello")
    with pytest.raises(DeadlineExceededError):
        await drained(model.astream("Hello"))
    answer = model.invoke("Hello", timeout=60)
    assert getattr(answer, "content", answer) == SHORT
