"""Lanes under a grammar are exact draws of the masked policy, whatever else shares the block."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from ig_plugins.engine import Sampler, TreeModel, TreeSession, sample_block
from ig_plugins.engine.decoding import decode

T, STOP, VOCAB = 3, 2, 61
PROMPT = [5, 6, 7]
LANGUAGE = {(10, 11), (10, 12), (10, 12, 13), (20,), (21, 22), (21, 23)}  # what may be said, each before STOP


class Words:
    """A grammar written down as a list of texts; it records what it was told."""

    def __init__(self, said=(), language=LANGUAGE):
        self.said, self.language = tuple(said), language

    def after(self, tokens):
        assert self.said + tuple(tokens[:1]) in {text[: len(self.said) + 1] for text in self.language} | {self.said}
        return Words((*self.said, *tokens), self.language)

    def following(self):
        n = len(self.said)
        ends = {text[n] if len(text) > n else STOP for text in self.language if text[:n] == self.said}
        return sorted(ends)

    def allowed(self, scores=None):
        bits = torch.zeros(-(-VOCAB // 8) * 8, dtype=torch.uint8)
        bits[self.following()] = 1
        return bytes((bits.view(-1, 8) * (1 << torch.arange(8))).sum(dim=1).tolist())

    @property
    def idle(self):
        return False


class Begun(Words):
    """Words are free until one of some tokens is said; behind it one token may follow, then words are free again."""

    def __init__(self, marks, said=()):
        self.marks, self.said = marks, tuple(said)

    def after(self, tokens):
        return Begun(self.marks, (*self.said, *tokens))

    def following(self):
        return [33]

    def allowed(self, scores=None):
        return None if self.idle else super().allowed()

    @property
    def idle(self):
        return self.said[-1:] == () or self.said[-1] not in self.marks


@pytest.fixture
def model(make_model):
    return TreeModel.attach(make_model("llama"), backend="masked")


def masses(model, sampler):
    """Each text's probability under the masked policy, by plain forwards over all of the language."""
    found = {}

    def walk(said, mass):
        logits = model.body.reference(torch.tensor([[*PROMPT, *said]]))[1][0, -1].double()
        masked = torch.full_like(logits, -torch.inf)
        allowed = Words(said).following()
        masked[allowed] = logits[allowed] / sampler.temperature
        shares = masked.softmax(dim=0)
        if sampler.top_k:
            kept = shares.topk(min(sampler.top_k, len(allowed))).indices
            shares = torch.zeros_like(shares).index_copy(0, kept, shares[kept])
        if sampler.min_p:
            shares = shares * (shares >= sampler.min_p * shares.max())
        shares = shares / shares.sum()
        for token in allowed:
            if token == STOP:
                found[said] = mass * float(shares[token])
            else:
                walk((*said, token), mass * float(shares[token]))

    walk((), 1.0)
    return found


def sampled(session, uniforms, sampler, **options):
    rows, lanes, _ = uniforms.shape
    return sample_block(
        session, torch.zeros(rows, lanes, dtype=torch.long), samplers=[sampler] * rows, uniforms=uniforms,
        max_tokens=[T + 1] * rows, stop_ids={STOP}, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sampler", [Sampler(temperature=1.5), Sampler(temperature=2.0, top_k=1), Sampler(temperature=3.0, min_p=0.3)]
)
def test_lanes_are_exact_draws_of_the_masked_policy(model, sampler):
    lanes, found = 64, Counter()
    for seed in range(16):
        session = model.prefill([PROMPT], lanes=lanes, block=T + 1, max_new=T + 1)
        uniforms = torch.rand(1, lanes, T + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        block = sampled(session, uniforms, sampler, matchers=[[Words()]])
        assert bool(block.finished.all())
        found.update(tuple(ids[ids >= 0].tolist()[:-1]) for ids in block.tokens[0])
    expected, total = masses(model, sampler), 16 * lanes
    assert set(found) <= set(expected) <= LANGUAGE
    for text, mass in expected.items():
        assert abs(found[text] / total - mass) < 5 * (mass * (1 - mass) / total) ** 0.5 + 1e-9, text


def test_every_lane_replays_with_plain_forwards(model):
    """The same uniform numbers give the same tokens: no tolerance."""
    sampler, uniforms = Sampler(temperature=1.5), torch.rand(1, 8, T + 1, dtype=torch.float64)
    session = model.prefill([PROMPT], lanes=8, block=T + 1, max_new=T + 1)
    block = sampled(session, uniforms, sampler, matchers=[[Words()]])
    for lane in range(8):
        said = []
        for step in range(int(block.lengths[0, lane])):
            logits = model.body.reference(torch.tensor([[*PROMPT, *said]]))[1][0, -1:]
            allowed = torch.zeros(1, VOCAB, dtype=torch.bool)
            allowed[0, Words(said).following()] = True
            token = sampler.draw(logits, uniforms[0, lane, step : step + 1], allowed=allowed)
            assert token.item() == block.tokens[0, lane, step]
            said.append(token.item())


@pytest.mark.parametrize("backend", ["segments", "masked"])
@pytest.mark.parametrize("keep_states", [False, True])
def test_a_block_may_mix_grammars_and_none(make_model, backend, keep_states):
    model = TreeModel.attach(make_model("llama"), backend=backend)
    prompts, sampler = [PROMPT, [8, 9], [10, 11, 12, 13]], Sampler(temperature=2.0)
    uniforms = torch.rand(3, 6, T + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    other = Words(language={(30, 31, 32)})
    session = model.prefill(prompts, lanes=6, block=T + 1, max_new=T + 1)
    matchers = [[Words()], None, [other]]
    block = sampled(session, uniforms, sampler, matchers=matchers, keep_states=keep_states)
    for row, own in enumerate(matchers):
        alone = model.prefill([prompts[row]], lanes=6, block=T + 1, max_new=T + 1)
        one = sampled(alone, uniforms[row : row + 1], sampler, matchers=[own] if own else ())
        assert torch.equal(block.tokens[row], one.tokens[0])
    assert {tuple(ids.tolist()) for ids in block.tokens[2]} == {(30, 31, 32, STOP)}
    assert any(tuple(ids.tolist())[:1] not in {(10,), (20,), (21,)} for ids in block.tokens[1])


def test_beams_go_on_where_they_stand(model):
    """The second block's lanes grow from two beams that have read different starts."""
    session = model.prefill([PROMPT], lanes=4, block=1, max_new=T + 1)
    first = sample_block(
        session, torch.zeros(1, 4, dtype=torch.long), samplers=[Sampler(temperature=9.0)],
        uniforms=torch.tensor([[[0.01], [0.34], [0.66], [0.99]]], dtype=torch.float64), max_tokens=[1],
        stop_ids={STOP}, matchers=[[Words()]],
    )  # fmt: skip
    starts = [int(first.tokens[0, lane, 0]) for lane in (0, 3)]
    assert starts == [10, 21]
    session.select(torch.tensor([[0, 3]]))
    second = sample_block(
        session, torch.tensor([[0, 1, 0, 1]]), samplers=[Sampler(temperature=9.0)],
        uniforms=torch.rand(1, 4, 1, dtype=torch.float64), max_tokens=[1], stop_ids={STOP},
        matchers=[[Words().after([start]) for start in starts]],
    )  # fmt: skip
    assert all(int(second.tokens[0, lane, 0]) in {11, 12} for lane in (0, 2))
    assert all(int(second.tokens[0, lane, 0]) in {22, 23} for lane in (1, 3))


@pytest.mark.parametrize("keep_states", [False, True])
@pytest.mark.parametrize("way", ["drafts", "device"])
@pytest.mark.parametrize("begun", ["by none", "by some"])
def test_lanes_run_ahead_until_a_grammar_masks(make_model, monkeypatch, way, begun, keep_states):
    """Neither drafts nor a device look at draws: they say what steps say, or it is said anew where one was masked."""
    marks = set(range(3, VOCAB, 4)) if begun == "by some" else {VOCAB + 1}
    model = TreeModel.attach(make_model("llama"), backend="segments")
    uniforms = torch.rand(2, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    took = []

    def block(lanes=3):
        session = model.prefill([PROMPT, [8, 9]], lanes=lanes, block=12, max_new=24)
        found = sample_block(
            session, torch.zeros(2, lanes, dtype=torch.long), samplers=[Sampler(temperature=1.5)] * 2,
            uniforms=uniforms, max_tokens=[12, 12], stop_ids={STOP}, matchers=[[Begun(marks)], None],
            histories=[[PROMPT], [[8, 9]]], keep_states=keep_states,
        )  # fmt: skip
        session.select(torch.tensor([[0, 1], [0, 2]]))
        return found, session

    stepped = decode._one_by_one
    monkeypatch.setattr(decode, "_one_by_one", lambda *given: took.append("steps") or stepped(*given))
    with monkeypatch.context() as slow:
        slow.setattr(decode, "FEW", 0)
        plain, after = block()
    assert took == ["steps"]
    if way == "device":
        monkeypatch.setattr(TreeSession, "runs_device_blocks", True)
    found, session = block()
    assert took == ["steps"] * (2 if begun == "by some" else 1)
    for name in ("tokens", "lengths", "finished"):
        assert torch.equal(getattr(found, name), getattr(plain, name)), name
    for name in ("hidden", "total", "states"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(session.logits, after.logits, atol=1e-4, rtol=1e-4)
    said = [pair for lane in found.tokens[0].tolist() for pair in pairwise(lane)]
    assert all(behind in (33, -1) for mark, behind in said if mark in marks)
    assert begun == "by none" or any(mark in marks for mark, _ in said), "the test is void"


def test_a_few_lanes_are_not_drafted_for_under_a_grammar(make_model):
    """Few lanes guess at their next tokens, which looks at logits alone; one grammar switches that off for all."""
    model = TreeModel.attach(make_model("llama"), backend="segments")
    model.drafts.learn([], [*PROMPT, 40, 41, 42, 43])  # what a draft would say next
    session = model.prefill([PROMPT], lanes=1, block=T + 1, max_new=T + 1)
    assert session.can_draft
    uniforms = torch.rand(1, 1, T + 1, dtype=torch.float64)
    block = sampled(session, uniforms, Sampler(), matchers=[[Words()]], histories=[[PROMPT]])
    assert tuple(block.tokens[0, 0][block.tokens[0, 0] >= 0].tolist()[:-1]) in LANGUAGE
