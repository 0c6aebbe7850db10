"""The benchmark for accelerators, run where there is none: its arithmetic, not its figures."""

import pytest
import torch

from ig_plugins.research.bench import Case, Shape, run_device
from ig_plugins.research.bench.device import step_bytes

TINY = Shape(layers=2, hidden=32, feed_forward=48, heads=4, key_heads=2, vocabulary=61)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_device_is_measured_against_its_own_bandwidth(dtype):
    case = Case(prompt=10, candidates=4, beams=2, block=3, new=6)
    found = run_device(case, shape=TINY, device="cpu", dtype=dtype, repeats=1, probe=2**20)
    assert (found["device"], found["dtype"], found["path"]) == ("cpu", dtype, "segments")
    assert found["bandwidth"] > 0
    assert found["ratios"]["step/floor"] == pytest.approx(found["step"]["tree"] / found["floor"]["tree"])
    assert found["answer"]["tree"] > found["step"]["tree"] * 6 * 0.5
    assert set(found["ratios"]) == {"step/floor", "single step/floor", "tree/generate_1"}


def test_the_floor_reads_weights_once_and_shared_tokens_once():
    model = TINY.model(device=torch.device("cpu"), dtype=torch.float32, positions=64)
    case = Case(prompt=10, candidates=4, beams=2, block=4, new=8)
    linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 61 * 32
    token = 2 * 2 * 2 * 8  # keys and values, layers, key heads, their width
    assert step_bytes(model, case) == 4 * (linear + token * (10 + 4 + 4 * 2))


def test_the_standing_shape_is_a_seven_billion_one():
    shape = Shape()
    layer = 4 * shape.hidden**2 + 3 * shape.hidden * shape.feed_forward
    assert shape.layers * layer + 2 * shape.vocabulary * shape.hidden == pytest.approx(6.74e9, rel=0.01)
