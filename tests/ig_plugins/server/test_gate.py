"""Who may come in, in which order, and what an estimate of memory is worth."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from ig_plugins import InferenceGuard
from ig_plugins.errors import ConfigurationError, DeadlineExceededError
from ig_plugins.server import gate as module
from ig_plugins.server.gate import BusyError, ClosingError, Gate
from ig_plugins.server.memory import TRACE, estimate


async def admitted(gate, takes=1, *, heavy=False, deadline=None):
    visit = gate.enter()
    await gate.admit(visit, takes=takes, heavy=heavy, deadline=deadline)
    return visit


async def waiting(gate, *arguments, **options):
    task = asyncio.ensure_future(admitted(gate, *arguments, **options))
    await asyncio.sleep(0)
    return task


async def test_so_many_run_so_many_wait_and_the_next_is_told_when_to_come_back():
    gate = Gate(running=2, queued=1, memory=100)
    first, _ = await admitted(gate), await admitted(gate)
    third = await waiting(gate)
    assert (gate.running, gate.queued) == (2, 1)
    with pytest.raises(BusyError, match="2 requests are running and 1 wait") as refused:
        gate.enter()
    assert refused.value.retry_after >= 1
    first.close()
    first.close()  # once is enough
    assert (await third).admitted
    assert (gate.running, gate.queued) == (2, 0)


async def test_memory_is_shared_and_one_that_could_never_fit_is_refused():
    gate = Gate(running=8, queued=8, memory=100)
    first = await admitted(gate, 60)
    second = await waiting(gate, 60)
    small = await waiting(gate, 30)
    assert not second.done()
    assert small.done()  # it fits beside the first
    first.close()
    await second
    with pytest.raises(ConfigurationError, match="its limit memory_bytes"):
        await admitted(gate, 101)


async def test_a_large_one_is_not_overtaken_for_ever(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    gate = Gate(running=8, queued=8, memory=100)
    first = await admitted(gate, 60)
    large = await waiting(gate, 90)
    await asyncio.sleep(0.06)
    late = await waiting(gate, 10)
    assert not late.done()
    first.close()
    await large
    await asyncio.sleep(0)
    assert late.done()


async def test_heavy_requests_leave_places_to_others():
    gate = Gate(running=8, queued=8, memory=100)
    heavies = [await waiting(gate, heavy=True) for _ in range(5)]
    assert [each.done() for each in heavies] == [True, True, False, False, False]
    assert (await waiting(gate)).done()
    heavies[0].result().close()
    await asyncio.sleep(0)
    assert heavies[2].done()


async def test_waiting_ends_at_the_deadline():
    gate = Gate(running=1, queued=1, memory=100)
    await admitted(gate)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="no turn within the timeout"):
        await admitted(gate, deadline=time.monotonic() + 0.05)
    assert time.monotonic() - started < 2


async def test_a_gate_that_closes_lets_those_inside_end_and_gives_them_up_when_told():
    gate = Gate(running=1, queued=1, memory=100)
    first = await admitted(gate)
    second = await waiting(gate)
    given_up = []
    first.abandon = lambda: given_up.append(1)
    gate.close()
    with pytest.raises(ClosingError):
        gate.enter()
    gate.abandon()
    assert given_up == [1]
    with pytest.raises(ClosingError):
        await second


@pytest.fixture(scope="module")
def tiny():
    guard = InferenceGuard.from_pretrained("tiny-beaver")
    guard.generate("How do I clean the kettle?", max_tokens=8)
    return guard


@pytest.mark.parametrize(
    "options",
    [
        {"candidates": 64, "beams": 16, "block_tokens": 64},
        {"candidates": 256, "beams": 64, "block_tokens": 64},
        {"candidates": 512, "beams": 256, "block_tokens": 32},
    ],
)
def test_an_estimate_is_no_less_than_what_is_taken(tiny, options):
    """What large searches took on top of what was there, looked at every few milliseconds."""
    options = {**options, "max_tokens": 128, "seed": 1}
    slack = 32 * 2**20  # of the allocator and of the model's own scratch memory
    before, peak, over = memory(), [0], threading.Event()

    def watch():
        while not over.wait(0.002):
            peak[0] = max(peak[0], memory())

    thread = threading.Thread(target=watch)
    thread.start()
    tiny.generate("How do I clean the kettle?", **options)
    over.set()
    thread.join()
    estimated = estimate(tiny.request("How do I clean the kettle?", **options), tiny.components)
    assert peak[0] - before < estimated + slack


def test_the_killing_request_is_estimated_in_gigabytes_and_a_usual_one_in_megabytes(tiny):
    killing = tiny.request("x", candidates=1024, beams=1024, block_tokens=3900, max_tokens=3900)
    assert estimate(killing, tiny.components) > 16 * 2**30
    assert estimate(tiny.request("x"), tiny.components) < 64 * 2**20


def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_trace_counts_whoever_asks_for_one(tiny):
    plain, traced = (tiny.request("How do I clean the kettle?", trace=trace) for trace in (False, True))
    assert estimate(traced, tiny.components) == estimate(plain, tiny.components) + TRACE
