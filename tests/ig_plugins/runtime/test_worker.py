"""Many callers, one model: right answers, merged batches, nobody held up by anybody."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from ig_plugins.errors import DeadlineExceededError, JudgeError, RequestCancelledError
from ig_plugins.runtime import batch as batches
from ig_plugins.runtime import worker
from ig_plugins.search import BlockSearch, Capacity
from tests.kit.guards import cost_of_marker, make_guard
from tests.kit.observe import count_ticks, fan_out, until
from tests.kit.slow import slow_guard

SLOW = {"word " * 200: 1.0}
workers = sys.modules[worker.__module__]


def echo(prompt):
    return {f"You said {prompt.split('USER: ')[1][:12]}": 1.0}


def steps_once_idle(model, pause=0.1):
    """The number of model steps once decoding has stopped."""

    def still():
        before = model.steps
        time.sleep(pause)
        return before == model.steps

    until(still)
    return model.steps


def test_32_callers_get_their_own_answers_in_merged_batches():
    guard = make_guard(echo, candidates=2, beams=1)
    model = guard.components.policy.tree
    prompts = [f"number {n:02d}." for n in range(32)]
    alone = [guard.generate(prompt).text for prompt in prompts]
    one_by_one, model.steps = model.steps, 0
    together = fan_out(lambda prompt: guard.generate(prompt).text, prompts, threads=32)
    assert together == alone
    assert len(set(together)) == 32
    assert model.steps < one_by_one / 2


def test_more_prompts_than_rows_wait_their_turn(monkeypatch):
    monkeypatch.setattr(batches, "MAX_ROWS", 3)
    guard = make_guard(echo, candidates=2, beams=1)
    results = guard.generate([f"number {n:02d}." for n in range(11)])
    assert [f"number {n:02d}" in result.text for n, result in enumerate(results)] == [True] * 11


def test_requests_of_many_sizes_share_a_worker():
    guard = make_guard(echo)
    sizes = [{"max_tokens": 4 + n, "candidates": 1 + n, "beams": 1, "block_tokens": 1 + n % 5} for n in range(8)]
    results = fan_out(lambda size: guard.generate("Go.", **size), sizes, threads=8)
    assert [len(result.token_ids) for result in results] == [4 + n for n in range(8)]


def test_a_long_prompt_and_a_long_answer_do_not_change_each_other():
    guard = make_guard(echo)
    guard.components.policy.tree.context = 300
    asks = [("x" * 200, 20), ("y", 200), ("z" * 190, 30), ("w", 240)] * 2
    results = fan_out(lambda ask: guard.generate(ask[0], max_tokens=ask[1]), asks, threads=8)
    assert all(result.text.startswith("You said") for result in results)


def test_an_abandoned_stream_stops_decoding():
    guard = make_guard(SLOW, max_tokens=900, candidates=2, beams=1)
    model = guard.components.policy.tree
    stream = guard.stream("Go.")
    assert model.steps == 0  # nothing is decoded for nobody
    next(stream)
    stream.close()
    assert steps_once_idle(model) < 500
    assert not worker()._lines


async def test_a_cancelled_task_stops_decoding():
    guard = make_guard(SLOW, max_tokens=900, candidates=2, beams=1)
    model = guard.components.policy.tree
    for method in (guard.agenerate("Go."), guard.agenerate(["Go.", "And again."])):
        task = asyncio.ensure_future(method)
        while model.steps < 5:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps_once_idle(model) < 900
        model.steps = 0
    async for _ in guard.astream("Go."):
        break
    assert await asyncio.to_thread(steps_once_idle, model) < 900


def test_cancelling_acts_within_a_block():
    guard = make_guard(SLOW, block_tokens=400, max_tokens=900, candidates=2, beams=1)
    model = guard.components.policy.tree
    handle = guard.prepare("Go.")
    worker().submit([handle])
    until(lambda: model.steps > 3)
    handle.cancel()
    with pytest.raises(RequestCancelledError, match="cancelled by its caller"):
        handle.result()
    assert steps_once_idle(model) < 400


def test_a_deadline_acts_within_a_block_and_for_each_row_by_itself():
    guard = make_guard(SLOW, block_tokens=500, max_tokens=900, candidates=2, beams=1)
    with pytest.raises(DeadlineExceededError, match=r"timeout of 0\.05 s; allow more time"):
        guard.generate("Go.", timeout=0.05)
    patient = make_guard({"word " * 8: 1.0}, candidates=2, beams=1, block_tokens=2)
    patient_request = patient.prepare("Go.")
    hasty_request = patient.prepare("Go.", timeout=0.001)
    time.sleep(0.002)
    worker().submit([patient_request, hasty_request])
    assert patient_request.result().text == "word " * 8
    with pytest.raises(DeadlineExceededError):
        hasty_request.result()


def test_those_who_wait_past_their_deadline_are_told(monkeypatch):
    monkeypatch.setattr(batches, "MAX_ROWS", 1)
    guard = make_guard(SLOW, max_tokens=900, candidates=2, beams=1)
    stream = guard.stream("Go.")
    next(stream)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        guard.generate("Wait.", timeout=0.05)
    assert time.monotonic() - started < 10
    stream.close()


async def test_the_event_loop_keeps_ticking():
    guard = slow_guard({"word " * 20: 1.0}, step_seconds=0.005, candidates=8, beams=4)

    async def stream():
        return [chunk.text async for chunk in guard.astream("Go.")]

    for asked in (guard.agenerate("Go."), guard.agenerate(["Go.", "On."]), stream()):
        seen = await count_ticks(asked)
        assert seen.ticks >= 20  # in about 100 steps of 5 ms; a blocked loop shows none


def test_one_failing_request_costs_the_others_nothing():
    def cost(prompts, responses):
        if any("poison" in prompt for prompt in prompts):
            raise ValueError("no")
        return cost_of_marker(prompts, responses)

    guard = make_guard(echo, cost=cost, candidates=2, beams=1)
    prompts = ["one", "two", "poison", "three"]
    handles = [guard.prepare(prompt) for prompt in prompts]
    worker().submit(handles)
    for prompt, handle in zip(prompts, handles, strict=True):
        if prompt == "poison":
            with pytest.raises(JudgeError, match="'marker' raised ValueError"):
                handle.result()
        else:
            assert handle.result().text == guard.generate(prompt).text


def test_guards_take_turns_while_a_judge_thinks():
    release = threading.Event()

    def thinking(prompts, responses):
        assert release.wait(10)
        return [0.0] * len(responses)

    slow, quick = make_guard(echo, cost=thinking), make_guard(echo)
    with_slow = threading.Thread(target=slow.generate, args=("Go.",))
    with_slow.start()
    assert quick.generate("Go.").text.startswith("You said")  # long before the other judge has answered
    release.set()
    with_slow.join(10)
    assert not with_slow.is_alive()


def test_a_worker_without_work_holds_no_thread():
    make_guard(echo).generate("Go.")
    until(lambda: not worker()._lines)
    own = ("inferenceguard", "inferenceguard-judge")  # the loop of HTTP calls is shared, and stays
    until(lambda: not [t for t in threading.enumerate() if t.name in own])


def test_a_batch_that_is_done_leaves_nothing_to_the_garbage_collector():
    guard = make_guard({"Hello there, how are you?": 1.0})
    guard.generate("Hi")
    until(lambda: not [t for t in threading.enumerate() if t.name == "inferenceguard"])
    gc.collect()
    gc.disable()
    try:
        others = _searches()  # that tests before this one still hold
        guard.generate("Hi")
        until(lambda: _searches() <= others)  # the worker's thread lets go a moment after the answer
    finally:
        gc.enable()


def _searches():
    return sum(type(each) is BlockSearch for each in gc.get_objects())  # isinstance would ask dead weak proxies


LEAVES_EARLY = """
import atexit, threading
atexit.register(lambda: print([thread.name for thread in threading.enumerate() if thread.name == "inferenceguard"]))
from tests.kit.slow import slow_guard
stream = slow_guard({"word " * 100: 1.0}, step_seconds=0.01).stream("Go.")
print(next(stream).text != "")
"""


def test_a_process_that_ends_in_the_middle_of_an_answer_waits_for_its_threads():
    """A thread that is inside torch when the interpreter goes down makes the process abort."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_EARLY], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["True", "[]"]), done.stderr


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_is_tried_again_only_while_no_text_has_left(begun):
    guard = make_guard(echo)
    handle = guard.prepare("Go.", stream=True)
    first = handle.request.uniforms(1, 3).tolist()
    handle.request.begun = begun
    batch, again = batches.Batch(guard.components, Capacity.of([handle.request])), []
    batch.jobs[handle.request] = handle
    batch._give_back(handle.request, JudgeError("no"), again, retry=True)
    assert again == ([] if begun else [handle])
    assert (handle.request.uniforms(1, 3).tolist() == first) != begun  # from the first draw
    assert handle._events.empty() != begun  # its caller is told


def test_how_long_a_block_has_taken_is_known_while_it_lasts():
    begun, over = threading.Event(), threading.Event()

    def judge(prompts, responses):
        begun.set()
        over.wait(20)
        return [0.0 for _ in responses]

    guard = make_guard({"An answer.": 1.0}, cost=judge)
    assert worker().block_seconds() == 0.0
    thread = threading.Thread(target=guard.generate, args=("A question?",))
    thread.start()
    assert begun.wait(20)
    time.sleep(0.05)
    assert 0.05 <= worker().block_seconds() < 20
    over.set()
    thread.join()
    until(lambda: worker().block_seconds() == 0.0)


def test_callers_who_come_together_share_their_first_block(monkeypatch):
    """The first to come waits a moment, by the time that a block takes, and those who come meanwhile join its block."""
    guard, blocks = slow_guard(SLOW, max_tokens=16), []
    step = batches.Batch.step
    monkeypatch.setattr(batches.Batch, "step", lambda self: blocks.append(len(self.jobs)) or step(self))
    guard.generate("Alone.")  # from now on it is known how long a block takes
    alone, blocks[:] = len(blocks), []
    monkeypatch.setattr(workers, "MOMENT", 0.5)
    monkeypatch.setattr(workers, "SHARE", 1000.0)
    fan_out(guard.generate, [f"number {n}." for n in range(6)], threads=6)
    assert blocks == [6] * alone


@pytest.mark.parametrize("max_tokens", [8, 16])  # one block, which is the last as well, and two
def test_who_comes_alone_waits_a_fiftieth_of_a_block_at_most(monkeypatch, max_tokens):
    slept, sleep = [], time.sleep
    guard = slow_guard(SLOW, step_seconds=0.01, max_tokens=max_tokens)
    started = time.monotonic()
    guard.generate("Nobody knows yet how long a block takes.")
    until(lambda: worker().block_seconds() == 0.0)  # it ends a moment after its answer
    longest = (time.monotonic() - started) / 50
    monkeypatch.setattr(workers.time, "sleep", lambda seconds: slept.append(seconds) or sleep(seconds))
    guard.generate("Again.")
    (moment,) = [seconds for seconds in slept if seconds != 0.01]  # the model's steps
    assert 0 < moment < longest


@pytest.mark.parametrize(
    ("coming", "waited", "joined"),
    [
        ([], 16, 0),  # a fiftieth of the block
        ([4], 6, 1),  # one came: a moment for the next
        ([4, 5, 6, 7], 9, 4),  # one after the other, as a proxy lets them come
        ([20], 16, 0),  # too late
        (range(100), 40, 40),  # for ever: a twentieth at most
    ],
)
def test_a_block_waits_for_those_who_come_one_after_the_other(monkeypatch, coming, waited, joined):
    """Counted in moments of 1/64 s, after a block of 800 of them."""
    line = workers._Line(make_guard({"An answer.": 1.0}).components, (0, 0))
    monkeypatch.setitem(workers._paces, line.engine, 800 / 64)
    monkeypatch.setattr(workers, "MOMENT", 1 / 64)
    now = 0.0

    def sleep(seconds):
        nonlocal now
        line.inbox += [each for each in coming if now <= each / 64 < now + seconds]
        now += seconds

    monkeypatch.setattr(workers, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now))
    workers.Worker()._gather(line)
    assert (now * 64, len(line.waiting)) == (waited, joined)
