"""A block that runs ahead says what a watched one says, and waits once. A CPU stands in for the device."""

import pytest
import torch

from ig_plugins.engine import NonFiniteLogitsError, Sampler, TreeModel, TreeSession, sample_block
from ig_plugins.errors import RequestCancelledError
from tests.ig_plugins.engine.test_sampling import LANES, PROMPTS, T, two_blocks, uniforms

SAMPLERS = [Sampler(temperature=1.5), Sampler(temperature=0.0), Sampler(top_k=7, top_p=0.8, min_p=0.05)]
WAITS = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "cpu", "numpy", "nonzero")


class Watched(torch.Tensor):
    """Counts who looks at the values of what a device computed."""

    waits: list[str] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in WAITS:
            cls.waits.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs)


@pytest.fixture
def tree(make_model, monkeypatch):
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", 0)
    return TreeModel.attach(make_model("llama"))


def ahead(monkeypatch):
    monkeypatch.setattr(TreeSession, "runs_device_blocks", True)


def test_it_says_the_same(tree, monkeypatch):
    watched = two_blocks(tree, [0, 1, 2], samplers=SAMPLERS)
    ahead(monkeypatch)
    monkeypatch.setattr(TreeSession, "extend", None)  # nobody steps
    for mine, plain in zip(two_blocks(tree, [0, 1, 2], samplers=SAMPLERS), watched, strict=True):
        for name in ("tokens", "lengths", "finished"):
            assert torch.equal(getattr(mine, name), getattr(plain, name)), name
        torch.testing.assert_close(mine.hidden, plain.hidden, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine.total, plain.total, atol=1e-4, rtol=1e-4)
    assert bool((plain.lengths < T).any())
    assert bool((plain.lengths == T).any())


def test_it_keeps_the_same_states(tree, monkeypatch):
    watched = two_blocks(tree, [0, 1, 2], samplers=SAMPLERS, keep_states=True)
    ahead(monkeypatch)
    monkeypatch.setattr(TreeSession, "extend", None)  # nobody steps
    for mine, plain in zip(two_blocks(tree, [0, 1, 2], samplers=SAMPLERS, keep_states=True), watched, strict=True):
        torch.testing.assert_close(mine.states, plain.states, atol=1e-4, rtol=1e-4)
        assert not bool(mine.states[mine.tokens < 0].any())
    assert bool((plain.tokens < 0).any())


def one_block(tree, *, watched=False, **options):
    session = tree.prefill(PROMPTS[:1], lanes=LANES, block=T, max_new=2 * T)
    if watched:
        session.logits = session.logits.as_subclass(Watched)
    settings = {"samplers": [Sampler()], "max_tokens": [T], "stop_ids": {2}, **options}
    block = sample_block(session, torch.zeros(1, LANES, dtype=torch.long), uniforms=uniforms(0, 0)[None], **settings)
    return session, block


def test_the_device_is_waited_for_once_a_block(tree, monkeypatch):
    ahead(monkeypatch)
    Watched.waits.clear()
    one_block(tree, watched=True)
    assert Watched.waits == ["__bool__"]


def test_tokens_behind_an_end_leave_nothing_behind(tree, monkeypatch):
    ahead(monkeypatch)
    session, block = one_block(tree, stop_ids=range(0, 61, 3))
    assert bool((block.lengths < T).any())
    assert int(session.tree.grown.sum()) == int(block.lengths.sum())
    session.select(torch.arange(LANES)[None])
    session.fork(torch.arange(LANES)[None])
    session.extend(torch.full((1, LANES), 9), torch.ones(1, LANES, dtype=torch.bool))
    for lane in range(LANES):
        sampled = block.tokens[0, lane, : block.lengths[0, lane]].tolist()
        wanted = tree.body.reference(torch.tensor([[*PROMPTS[0], *sampled, 9]]))[0][0, -1]
        torch.testing.assert_close(session.lane_hidden[0, lane], wanted, atol=1e-4, rtol=1e-4)


def test_logits_that_are_not_finite_are_found_at_the_end(tree, monkeypatch):
    ahead(monkeypatch)
    advance, steps = TreeSession.advance, []

    def spoiled(self, tokens):
        steps.append(tokens)
        hidden, logits = advance(self, tokens)
        return hidden, logits * float("nan") if len(steps) == 2 else logits

    monkeypatch.setattr(TreeSession, "advance", spoiled)
    for sampler in SAMPLERS:
        steps.clear()
        with pytest.raises(NonFiniteLogitsError, match="NaN"):
            one_block(tree, samplers=[sampler])
        assert len(steps) == T


@pytest.mark.parametrize(
    "options",
    [
        {"samplers": [Sampler(top_p=0.9)]},
        {"samplers": [Sampler(repetition_penalty=1.1)], "histories": [[PROMPTS[0]]]},
        {"penalties": [torch.ones(T, 61)]},
        {"max_tokens": torch.tensor([[T, 2, 3, T]])},
    ],
)
def test_blocks_that_must_be_watched_are(tree, monkeypatch, options):
    ahead(monkeypatch)
    monkeypatch.setattr(TreeSession, "advance", None)
    one_block(tree, **options)


def test_a_cancelled_block_stops_between_steps(tree, monkeypatch):
    ahead(monkeypatch)
    steps = []

    def stop():
        steps.append(None)
        if len(steps) == 3:
            raise RequestCancelledError("stop")

    with pytest.raises(RequestCancelledError):
        one_block(tree, on_step=stop)
    assert len(steps) == 3


def test_a_cpu_is_watched(tree):
    assert not tree.prefill(PROMPTS, lanes=1, block=1, max_new=1).runs_device_blocks
