import time

import pytest

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.bench import Case, block_times, run, run_tuned, sampling
from ig_plugins.research.bench.clock import Stopwatch, interleaved

SMALL = Case(prompt=12, candidates=4, beams=2, block=3, new=6, layers=2, width=64, vocabulary=97)
TOKEN = 2 * 2 * 64 * 4  # bytes: keys and values, layers, width, float32


def test_a_run_reports_times_ratios_and_where_the_time_went():
    found = run(SMALL, repeats=2)
    tree = found["seconds"]["tree"]
    assert found["path"] == "segments"
    assert len(tree["runs"]["wall"]) == 2
    assert found["ratios"]["wall"]["generate_n/tree"] == pytest.approx(
        found["seconds"]["generate_n"]["wall"] / tree["wall"]
    )
    assert set(found["split"]) == {"prefill", "forward", "bookkeeping", "sampling", "judging"}
    assert found["split"]["forward"] > 0
    assert min(found["split"].values()) >= 0  # a coin is judged faster than the clock ticks
    assert found["environment"]["threads"] == 1


def test_memory_is_counted_on_the_tensors():
    memory = run(SMALL, repeats=1, names=["tree", "generate_n"])["memory"]
    assert memory["tree"]["prompt"] == 12 * TOKEN
    assert memory["tree"]["block"] == 4 * 3 * TOKEN
    # The last sampled token is never fed by `generate`.
    assert memory["generate_n"]["allocated"] == 4 * (12 + 6 - 1) * TOKEN


def test_the_allocator_is_tuned_in_a_process_of_its_own():
    found = run_tuned(SMALL, repeats=1, names=["tree", "generate_1"])
    assert found["environment"]["malloc"] != "default"
    assert found["case"]["prompt"] == 12
    assert found["ratios"]["cpu"]["tree/generate_1"] > 0


def test_what_fails_in_the_tuned_process_is_told(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/ls")  # `ls -c ...` finds no such file
    with pytest.raises(RuntimeError, match=r"tuned allocator failed: .*cannot access"):
        run_tuned(SMALL)


def test_blocks_are_timed_one_by_one():
    assert len(block_times(SMALL, repeats=1)["blocks"]) == 2


def test_sampling_is_compared_with_transformers():
    found = sampling(lanes=4, vocabulary=128, repeats=2)["milliseconds"]
    assert {"top-k 50", "top-k 50, transformers"} <= set(found)


def test_contenders_take_turns():
    order = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b", "a", "b"]
    assert len(timings["b"].cpu) == 2


def test_a_stopwatch_times_only_while_it_is_on():
    class Worker:
        def work(self):
            end = time.process_time() + 0.01
            while time.process_time() < end:
                pass

    worker, watch = Worker(), Stopwatch()
    with watch.on(worker, "work"):
        worker.work()
    worker.work()
    assert 0.01 <= watch.seconds < 0.02


def test_a_case_without_a_meaning_is_refused():
    with pytest.raises(ConfigurationError, match="beams is 4"):
        Case(candidates=2)
    with pytest.raises(ConfigurationError, match="width is 100"):
        Case(width=100)
