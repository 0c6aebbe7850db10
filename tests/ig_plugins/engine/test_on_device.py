"""Every path on a GPU against transformers' plain forward there, in float32 and bfloat16, with graphs and without.

``INFERENCEGUARD_DEVICE=cpu python -m pytest -m gpu`` rehearses them on a CPU.
"""

import os

import pytest
import torch
from transformers import SuppressTokensLogitsProcessor

from ig_plugins.engine import Sampler, TreeModel, TreeSession
from ig_plugins.engine.forward.numerics import difference
from tests.ig_plugins.engine.conftest import Walk, long_walk, tiny
from tests.ig_plugins.engine.test_families import MASKED, PORTABLE, SEGMENTS
from tests.ig_plugins.engine.test_masks import LANGUAGE, Words, sampled
from tests.ig_plugins.engine.test_sampling import PROMPTS, two_blocks

DEVICE = os.environ.get("INFERENCEGUARD_DEVICE", "cuda")
SAMPLERS = [Sampler(temperature=1.5), Sampler(temperature=0.0), Sampler(top_k=7, min_p=0.05)]
HALF = torch.bfloat16

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_device(family, dtype=torch.float32, **changes):
    return tiny(family, **changes).to(DEVICE, dtype)


class Measured(Walk):
    """A walk in half precision, beside the plain forward there, by what float32 makes of the same weights."""

    def __init__(self, model, *arguments, exact, **options):
        self.exact, self.errors = exact, []
        super().__init__(model, *arguments, **options)

    def same(self, actual, expected):
        """Left to ``check``, which knows the text."""

    def check(self):
        session = self.session
        states = [(self.beams, session.hidden)]
        if self.lanes is not None:
            states.append((self.lanes, session.lane_hidden))
        for texts, hidden in states:
            assert hidden.isfinite().all()
            for row, many in enumerate(texts):
                for place, ids in enumerate(many):
                    if ids is not None:
                        text = torch.tensor([ids], device=DEVICE)
                        wanted = self.exact.base_model(input_ids=text, use_cache=False).last_hidden_state[0, -1]
                        plain = self.reference(ids)[0][-1]
                        self.errors.append((difference(hidden[row, place], wanted), difference(plain, wanted)))


@pytest.mark.parametrize("family", SEGMENTS)
def test_segments_equal_the_full_forward(family):
    walk = long_walk(on_device(family, **MASKED[family][-1]))
    assert walk.tree_model.backend == "segments"


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "qwen2", "gpt2", "cohere2", "gpt_oss"])
def test_masked_equals_the_full_forward(family):
    long_walk(on_device(family, **MASKED[family][0]), backend="masked")


@pytest.mark.parametrize("family", ["bloom", "llama", "mamba"])
def test_portable_equals_the_full_forward(family):
    long_walk(on_device(family, **PORTABLE[family]), backend="portable")


@pytest.mark.parametrize("backend", ["segments", "masked", "portable"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "olmo2"])
@torch.inference_mode()
def test_bfloat16_rounds_no_more_than_the_plain_forward_does(family, backend):
    """By the means of all states' errors against float32; a token seen or missed would show as many times as much."""
    model = on_device(family, HALF, **MASKED[family][-1])
    exact = on_device(family, **MASKED[family][-1])
    exact.load_state_dict(model.state_dict())

    def walk(model, **options):
        return Measured(model, [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]], exact=exact, **options)

    walk = _short_walk(walk(model, backend=backend))
    mine, plain = (sum(each) / len(walk.errors) for each in zip(*walk.errors, strict=True))
    assert mine <= 1.5 * plain + 1e-3, (mine, plain)


def _short_walk(walk):
    walk.check()
    walk.fork([[0, 0, 0, 0], [0, 0, 0, -1]])
    walk.extend([[1, 1, 1, 1], [1, 1, 1, 0]])
    walk.extend([[1, 0, 1, 1], [0, 1, 1, 0]])
    walk.check()
    walk.select([[3, 0, 1], [1, 2, -1]])
    walk.fork([[0, 1, 2, 0, 1, 2], [1, 0, 0, 1, -1, -1]])
    for _ in range(4):
        walk.extend([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    walk.check()
    walk.select([[3, 4, 5], [3, 2, -1]])
    walk.check()
    return walk


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "olmo2", "phi3"])
def test_recorded_stepped_and_watched_blocks_are_the_same(monkeypatch, family, dtype):
    tree = TreeModel.attach(on_device(family, dtype, **MASKED[family][-1]))
    ahead = tree.prefill([[5]], lanes=1, block=1, max_new=1).runs_device_blocks
    assert ahead or DEVICE == "cpu"
    recorded = two_blocks(tree, [0, 1, 2], samplers=SAMPLERS)
    assert DEVICE == "cpu" or tree.recorder.trusted
    tree.recorder = None
    stepped = two_blocks(tree, [0, 1, 2], samplers=SAMPLERS)
    same_blocks(recorded, stepped, dtype)
    if dtype == torch.float32:  # in half precision other kernels may round a near tie the other way
        monkeypatch.setattr(TreeSession, "runs_device_blocks", False)
        same_blocks(recorded, two_blocks(tree, [0, 1, 2], samplers=SAMPLERS), dtype)


def same_blocks(found, wanted, dtype):
    apart = 1e-4 if dtype == torch.float32 else 5e-2
    for mine, plain in zip(found, wanted, strict=True):
        for name in ("tokens", "lengths", "finished"):
            assert torch.equal(getattr(mine, name), getattr(plain, name)), name
        assert difference(mine.hidden, plain.hidden) <= apart
        assert difference(mine.total, plain.total) <= apart


def test_recorded_tokens_are_those_of_the_full_forward():
    """Replayed with the plain model of the device: the same uniforms give the same tokens."""
    tree = TreeModel.attach(on_device("llama"))
    block = two_blocks(tree, [0, 1])[0]
    for row in range(2):
        for lane in range(4):
            ids = list(PROMPTS[row])
            draws = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * row))
            for step in range(int(block.lengths[row, lane])):
                logits = tree.body.reference(torch.tensor([ids], device=DEVICE))[1][0, -1:]
                token = Sampler(temperature=1.5).draw(logits, draws[lane, step : step + 1])
                assert token.item() == block.tokens[row, lane, step]
                ids.append(token.item())


def test_a_device_says_what_the_cpu_says():
    model = tiny("llama")
    wanted = two_blocks(TreeModel.attach(model), [0, 1, 2], samplers=SAMPLERS)
    for mine, plain in zip(two_blocks(TreeModel.attach(model.to(DEVICE)), [0, 1, 2], samplers=SAMPLERS), wanted,
                           strict=True):  # fmt: skip
        assert torch.equal(mine.tokens, plain.tokens)
        torch.testing.assert_close(mine.hidden.cpu(), plain.hidden, atol=1e-3, rtol=1e-3)


def test_blocks_keep_the_same_states_recorded_stepped_and_watched(monkeypatch):
    tree = TreeModel.attach(on_device("llama"))

    def kept():
        return two_blocks(tree, [0, 1, 2], samplers=SAMPLERS, keep_states=True)

    recorded = kept()
    assert DEVICE == "cpu" or tree.recorder.trusted
    tree.recorder = None
    stepped = kept()
    monkeypatch.setattr(TreeSession, "runs_device_blocks", False)
    for found in (recorded, stepped):
        for mine, plain in zip(found, kept(), strict=True):
            assert torch.equal(mine.tokens, plain.tokens)
            torch.testing.assert_close(mine.states, plain.states, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(mine.states.sum(dim=2), mine.total, atol=1e-4, rtol=1e-4)
            ended = mine.states[(mine.tokens < 0).to(DEVICE)]
            assert len(ended) > 0
            assert not bool(ended.any())


@pytest.mark.parametrize(
    "options",
    [
        {"samplers": [Sampler(top_p=0.9), Sampler(top_p=0.5, temperature=3.0), Sampler(top_p=0.8, min_p=0.01)]},
        {"samplers": [Sampler(top_p=0.9)] * 3, "keep_states": True},
        {"samplers": [Sampler(repetition_penalty=1.5), Sampler(), Sampler(top_k=5, repetition_penalty=1.2)]},
        {"samplers": [Sampler(processors=(SuppressTokensLogitsProcessor([5, 9, 40]),))] * 3},
        {"penalties": [torch.linspace(0, 3, 6 * 61).view(6, 61), None, torch.ones(6, 61)]},
    ],
)
def test_draws_that_are_looked_at_say_what_the_cpu_says(options):
    """Nuclei, histories, processors and retry penalties take a block step by step."""
    options = {"histories": [[prompt] * 2 for prompt in PROMPTS], **options}
    wanted = two_blocks(TreeModel.attach(tiny("llama")), [0, 1, 2], **options)
    for mine, plain in zip(two_blocks(TreeModel.attach(on_device("llama")), [0, 1, 2], **options), wanted, strict=True):
        assert torch.equal(mine.tokens, plain.tokens)
        torch.testing.assert_close(mine.hidden.cpu(), plain.hidden, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(mine.states.cpu(), plain.states, atol=1e-3, rtol=1e-3)


def test_drafts_of_two_samplers_say_what_the_cpu_says(monkeypatch):
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", 12)
    samplers, found = [Sampler(top_p=0.9), Sampler(top_p=0.7, temperature=0.5), Sampler(temperature=0.2)], []
    for model in (tiny("llama"), on_device("llama")):
        tree = TreeModel.attach(model)
        found.append([two_blocks(tree, [0, 1, 2], samplers=samplers) for _ in range(2)][-1])  # drafts of the first
    for plain, mine in zip(*found, strict=True):
        assert torch.equal(mine.tokens, plain.tokens)


@pytest.mark.parametrize("sampler", [Sampler(temperature=2.0), Sampler(temperature=0.0), Sampler(top_p=0.7)])
@pytest.mark.parametrize("keep_states", [False, True])
def test_lanes_under_a_grammar_say_what_the_cpu_says(sampler, keep_states):
    """A block of rows with a grammar and without one."""
    prompts, matchers, found = [[5, 6, 7], [8, 9], [10, 11, 12]], [[Words()], None, [Words(language={(30, 31)})]], []
    uniforms = torch.rand(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for model in (tiny("llama"), on_device("llama")):
        session = TreeModel.attach(model).prefill(prompts, lanes=6, block=4, max_new=4)
        found.append(sampled(session, uniforms, sampler, matchers=matchers, keep_states=keep_states))
    plain, mine = found
    assert torch.equal(mine.tokens, plain.tokens)
    assert {tuple(ids[ids >= 0].tolist()[:-1]) for ids in mine.tokens[0]} <= LANGUAGE
    torch.testing.assert_close(mine.states.cpu(), plain.states, atol=1e-3, rtol=1e-3)
