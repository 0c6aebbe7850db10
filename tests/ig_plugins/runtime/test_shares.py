"""Small requests do not wait for large ones to end, and are not decoded in step with them."""

import threading
import time
from types import SimpleNamespace

from ig_plugins.runtime import shares as module
from ig_plugins.runtime import worker
from ig_plugins.runtime.batch import ALIKE, alike, work_of
from ig_plugins.runtime.shares import Shares
from ig_plugins.search import BlockSearch, Capacity
from tests.kit.guards import cost_of_marker, make_guard
from tests.kit.observe import until


def run(shares, batches, rounds, cost):
    """Which batch decodes in so many turns, where a block of each takes so many seconds."""
    order = []
    for _ in range(rounds):
        batch = shares.next(batches)
        shares.charge(batch, batches, seconds=cost[batch.work])
        order.append(batch.work)
    return order


def some(*works):
    return [SimpleNamespace(work=work, seconds=0.0) for work in works]


def test_light_batches_get_half_of_the_time_beside_any_number_of_heavy_ones():
    cost = {10: 0.01, 1000: 1.0}
    batches = some(10, *[1000] * 5)
    order = run(Shares(), batches, 2000, cost)
    light, heavy = (order.count(work) * cost[work] for work in (10, 1000))
    assert abs(light - heavy) <= module.GRACE + 1.0
    assert order[:50] == [10] * 50  # a short answer is not interrupted
    waits = "".join("l" if work == 10 else "H" for work in order).split("l")
    assert max(map(len, waits)) <= 2  # never behind more than two heavy blocks
    spent = [each.seconds for each in batches[1:]]
    assert max(spent) - min(spent) <= 1.0  # the heavy ones share evenly


def test_batches_alike_take_turns_and_a_new_one_has_no_claim_on_the_past():
    shares, batches = Shares(), some(10, 11, 12)
    order = run(shares, batches, 30, {10: 1.0, 11: 1.0, 12: 1.0})
    assert [order.count(work) for work in (10, 11, 12)] == [10, 10, 10]
    (late,) = some(13)
    shares.join(late, batches)
    order = run(shares, [*batches, late], 40, {10: 1.0, 11: 1.0, 12: 1.0, 13: 1.0})
    assert order.count(13) == 10


def test_one_that_comes_back_from_its_judge_has_neither_a_claim_nor_a_debt():
    shares, batches = Shares(), some(10, 11)
    away = batches.pop()
    run(shares, batches, 20, {10: 1.0})  # what `away` does meanwhile is not charged
    shares.join(away, batches)
    batches.append(away)
    order = run(shares, batches, 20, {10: 1.0, 11: 1.0})
    assert order.count(11) == 10
    shares.join(away, [])  # alone: what it has had is no reason to forget it
    assert away.seconds == 30.0


def test_a_small_request_is_not_decoded_in_step_with_a_large_one(monkeypatch):
    """The large one has 64 blocks to go when the small one comes, of 64 times its work; the small one ends first."""
    guard = make_guard({"word " * 100: 1.0})
    sizes = []
    real = BlockSearch.step
    monkeypatch.setattr(BlockSearch, "step", lambda self: (sizes.append(len(self.rows)), real(self))[1])
    ended = []

    def ask(name, **options):
        guard.generate("How?", **options)
        ended.append(name)

    large = {"candidates": 64, "beams": 8, "block_tokens": 32, "max_tokens": 500}
    threads = [threading.Thread(target=ask, args=("large",), kwargs=large)]
    threads[0].start()
    until(lambda: sizes)
    threads.append(threading.Thread(target=ask, args=("small",), kwargs={"block_tokens": 4, "max_tokens": 16}))
    threads[1].start()
    for thread in threads:
        thread.join()
    assert ended == ["small", "large"]
    assert set(sizes) == {1}


def test_a_large_request_whose_judge_hangs_holds_up_neither_small_nor_large_ones():
    """It is left to its thread; the next large one need not wait for its row."""
    free = threading.Event()

    def judge(prompts, responses):
        if any("poison" in prompt for prompt in prompts):
            free.wait(60)
        return cost_of_marker(prompts, responses)

    guard = make_guard({"word " * 10: 1.0}, cost=judge, judge_timeout=50.0)
    large = {"candidates": 100, "beams": 4, "block_tokens": 32, "max_tokens": 64}
    found = {}

    def ask(prompt, **options):
        found[prompt] = guard.generate(prompt, **options).text

    stuck = threading.Thread(target=ask, args=("poison",), kwargs=large)
    stuck.start()
    time.sleep(0.2)
    others = [
        threading.Thread(target=ask, args=("large",), kwargs=large, daemon=True),
        threading.Thread(target=ask, args=("small",), kwargs={"block_tokens": 4, "max_tokens": 64}, daemon=True),
    ]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(30)
    try:
        assert found == {"large": "word " * 10, "small": "word " * 10}
    finally:
        free.set()
        stuck.join(30)
    assert found["poison"] == "word " * 10
    until(lambda: not worker()._lines)


def test_requests_that_are_each_like_the_first_need_not_be_like_one_another():
    """One has many lanes, one has long blocks; a batch around all three would be too large for the first."""
    guard = make_guard({"word " * 10: 1.0})
    sizes = [{"candidates": 4, "block_tokens": 4}, {"candidates": 16, "block_tokens": 4}, {"block_tokens": 14}]
    requests = [guard.request("How?", **{"candidates": 4, "beams": 2, **size}) for size in sizes]
    found = alike(requests)
    capacity = Capacity.of(found)
    assert found == [requests[0], requests[1]]
    assert all(work_of(capacity) <= ALIKE * work_of(Capacity.of([each])) for each in found)
    threads = [
        threading.Thread(
            target=guard.generate, args=("How?",), kwargs={"beams": 2, "candidates": 4, **size}, daemon=True
        )
        for size in sizes * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
