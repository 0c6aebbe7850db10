"""Recorded steps do what the steps do. In the place of CUDA's graphs: a trace, which holds as little of Python as they.

A trace, like a graph, is a list of operations on given tensors: whatever a step decides or counts in Python is in it as
it was when it was recorded.
"""

import logging

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ig_plugins.engine import Sampler, TreeModel, TreeSession
from ig_plugins.engine.speedups.cuda_graphs import StepRecorder
from tests.ig_plugins.engine.test_device_block import SAMPLERS, T, ahead, one_block
from tests.ig_plugins.engine.test_sampling import two_blocks

# Looks at values, and tensors made of Python's numbers, which come from the host.
UNRECORDABLE = ("_local_scalar_dense", "nonzero", "lift_fresh", "unique", "aten.equal")


class Traces(StepRecorder):
    """Counts how often it recorded, and how often that was replayed; ``change`` may make something else of it."""

    def __init__(self, change=lambda replay: replay):
        super().__init__(lambda step: change(self.trace(step)))
        self.recordings = self.replays = 0

    def recorded(self, step, states):
        self.states = states
        return super().recorded(step, states)

    def trace(self, step):
        self.recordings += 1
        before = [state.clone() for state in self.states]
        trace = make_fx(lambda: step())()
        for state, old in zip(self.states, before, strict=True):
            state.copy_(old)  # a graph does not run what it records
        for node in trace.graph.nodes:
            assert not any(name in str(node.target) for name in UNRECORDABLE), node.target

        def replay():
            self.replays += 1
            trace()

        return replay


@pytest.fixture
def tree(make_model, monkeypatch):
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", 0)
    ahead(monkeypatch)
    return TreeModel.attach(make_model("llama"))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo2", "starcoder2"])
def test_recorded_blocks_say_what_stepped_blocks_say(tree, make_model, family):
    tree = TreeModel.attach(make_model(family))
    plain = two_blocks(tree, [0, 1, 2], samplers=SAMPLERS)
    tree.recorder = traces = Traces()
    for mine, wanted in zip(two_blocks(tree, [0, 1, 2], samplers=SAMPLERS), plain, strict=True):
        for name in ("tokens", "lengths", "finished"):
            assert torch.equal(getattr(mine, name), getattr(wanted, name)), name
        torch.testing.assert_close(mine.hidden, wanted.hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.total, wanted.total, atol=1e-5, rtol=1e-5)
    assert traces.recordings == 2
    assert traces.replays == T - 1 + T  # every step but the first, after which recordings are trusted


def test_what_is_committed_after_recorded_blocks_is_what_the_full_forward_says(tree):
    tree.recorder = traces = Traces()
    session, block = one_block(tree)
    assert traces.replays == T - 1
    session.select(torch.tensor([[1, 3]]))
    for beam, lane in enumerate((1, 3)):
        sampled = block.tokens[0, lane, : block.lengths[0, lane]].tolist()
        wanted = tree.body.reference(torch.tensor([[5, 6, 7, 8, 9, *sampled]]))
        torch.testing.assert_close(session.hidden[0, beam], wanted[0][0, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(session.logits[0, beam], wanted[1][0, -1], atol=1e-4, rtol=1e-4)


def test_a_recording_that_does_something_else_is_not_used(tree, caplog):
    plain = one_block(tree)[1]
    tree.recorder = traces = Traces(change=lambda replay: lambda: None)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(one_block(tree)[1].tokens, plain.tokens)
        assert torch.equal(one_block(tree)[1].tokens, plain.tokens)
    assert (traces.recordings, len(caplog.messages)) == (1, 1)
    assert "without CUDA graphs" in caplog.messages[0]


def test_steps_that_cannot_be_recorded_run_as_they_are(tree, caplog):
    plain = one_block(tree)[1]

    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    tree.recorder = StepRecorder(refuse)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(one_block(tree)[1].tokens, plain.tokens)
        assert torch.equal(one_block(tree)[1].tokens, plain.tokens)
    assert len(caplog.messages) == 1


def test_a_block_goes_on_when_a_later_recording_fails(tree, caplog):
    """With the values that the step needs: what the failed recording made on the way is not used."""
    plain = two_blocks(tree, [0, 1, 2], samplers=SAMPLERS)
    tree.recorder = traces = Traces()
    record = traces._record

    def once(step):
        if traces.recordings:
            step.__self__._session.model.body.run = poisoned(step, tree.body.run)
            step()
        return record(step)

    def poisoned(step, run):
        def failing(*arguments, **options):
            tree.body.run = run
            raise RuntimeError("operation failed due to a previous error during capture")

        return failing

    traces._record = once
    with caplog.at_level(logging.WARNING):
        for mine, wanted in zip(two_blocks(tree, [0, 1, 2], samplers=SAMPLERS), plain, strict=True):
            assert torch.equal(mine.tokens, wanted.tokens)
    assert traces.recordings == 1
    assert len(caplog.messages) == 1


def test_short_blocks_are_not_recorded(tree):
    tree.recorder = traces = Traces()
    one_block(tree, max_tokens=[3])
    assert traces.recordings == 0


def test_only_models_on_one_cuda_device_are_recorded(make_model):
    assert StepRecorder.of(make_model("llama")) is None
    mixed = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1, device="meta")])
    assert StepRecorder.of(mixed) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_recorded_blocks_say_what_stepped_blocks_say(make_model, monkeypatch, dtype):
    tree = TreeModel.attach(make_model("llama").to("cuda", dtype))
    assert tree.prefill([[5]], lanes=1, block=1, max_new=1).runs_device_blocks
    samplers = [Sampler(temperature=1.5)] * 3
    mine = two_blocks(tree, [0, 1, 2], samplers=samplers)
    assert tree.recorder.trusted
    tree.recorder = None
    for found, wanted in zip(mine, two_blocks(tree, [0, 1, 2], samplers=samplers), strict=True):
        assert torch.equal(found.tokens, wanted.tokens)
    if dtype == torch.float32:
        monkeypatch.setattr(TreeSession, "runs_device_blocks", False)
        for found, wanted in zip(mine, two_blocks(tree, [0, 1, 2], samplers=samplers), strict=True):
            assert torch.equal(found.tokens, wanted.tokens)
