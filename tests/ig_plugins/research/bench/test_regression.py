"""What keeps the tree fast, in figures that no machine changes: forwards, tokens, bytes, and calls into torch."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ig_plugins.engine import TreeModel
from ig_plugins.research.bench import Case, run
from ig_plugins.research.bench.contenders import contenders

CASE = Case(prompt=256, candidates=16, beams=4, block=8, new=32, layers=2, width=64, vocabulary=97)
TOKEN = 2 * 2 * 64 * 4  # bytes: keys and values, layers, width, float32
ALLOWANCE = 222  # of calls a step beside the forward itself; telling lanes that say the same takes fifteen of them


@pytest.fixture(scope="module", params=["segments", "masked"])
def found(request):
    return run(CASE, repeats=1, path=request.param)


def test_a_token_is_forwarded_once_and_a_prompt_once_for_all_lanes(found):
    work = found["work"]
    assert work["tree"]["tokens"] == CASE.prompt + CASE.candidates * CASE.new
    assert work["tree"]["forwards"] == 1 + CASE.new
    assert work["tree"]["logits"] <= 1 + CASE.candidates * CASE.new  # lanes that say the same are one until they differ
    assert work["tree"]["flops"] < 0.2 * work["generate_n"]["flops"]


def test_keys_and_values_are_held_once(found):
    memory = found["memory"]
    assert memory["tree"]["prompt"] == CASE.prompt * TOKEN
    assert memory["tree"]["block"] == CASE.candidates * CASE.block * TOKEN
    assert memory["tree"]["beams"] <= CASE.beams * (CASE.new - CASE.block) * TOKEN
    assert memory["tree"]["allocated"] < 0.2 * memory["generate_n"]["allocated"]


class Calls(TorchDispatchMode):
    """Counts what reaches torch, without slices: before 2.7 torch made one for every ``:`` of an index."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is not torch.ops.aten.slice.Tensor
        return func(*args, **(kwargs or {}))


def test_a_step_of_the_tree_calls_torch_little_more_often_than_a_step_of_generate():
    """Where models are small or devices fast, calls are the time."""
    model = CASE.model()
    tree, calls = TreeModel.attach(model), {}
    with torch.inference_mode():
        for name, decode in contenders(model, tree, CASE).items():
            with Calls() as counter:
                decode()
            calls[name] = counter.count / CASE.new
    assert calls["tree"] - calls["floor"] < ALLOWANCE
    assert calls["tree"] < 2 * calls["generate_1"]
