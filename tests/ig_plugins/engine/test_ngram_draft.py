"""Guesses save forwards and change nothing else."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ig_plugins.engine import NgramDrafts, Sampler, TreeModel, sample_block
from ig_plugins.engine.speedups.ngram_draft import FEW, FIRST, KEPT, reach_after
from tests.ig_plugins.engine.conftest import tiny

PROMPTS = [[5, 6, 7], [8, 9]]
STOP = 2


@pytest.fixture
def sharp(make_model):
    """A model that says the same things again: its draws are nearly certain."""
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)
    return model


@cache
def speaker(path):
    """A model that reads all tokens and says none below 30, so that no prompt made of those can be sampled."""
    model = tiny("llama")
    model.lm_head = torch.nn.Linear(32, 61)
    with torch.no_grad():
        model.lm_head.bias[:30] = -1e4
    return TreeModel.attach(model, backend=path)


def block(tree, *, lanes=3, tokens=8, seed=0, backend=None, sampler=None, histories=None, **options):
    """Two blocks of a search; returns the second and the session, whose block is still open."""
    random = torch.Generator().manual_seed(seed)
    session = tree.prefill(PROMPTS, lanes=lanes, block=tokens, max_new=2 * tokens)
    sampler = sampler or Sampler()
    texts = [[prompt] for prompt in PROMPTS]
    for last in (False, True):
        beams = session.hidden.shape[1]
        found = sample_block(
            session,
            torch.arange(lanes).remainder(beams).expand(2, -1),
            samplers=[sampler, Sampler(temperature=0.7)],
            uniforms=torch.rand(2, lanes, tokens, dtype=torch.float64, generator=random),
            max_tokens=torch.tensor([[tokens] * lanes, [tokens - 3] * lanes]),
            stop_ids=[STOP],
            histories=texts,
            **options,
        )
        if last:
            return found, session
        going = torch.tensor([[0, 1], [lanes - 1, 0]])
        texts = [
            [[*prompt, *found.tokens[row, lane, : found.lengths[row, lane]].tolist()] for lane in going[row].tolist()]
            for row, prompt in enumerate(PROMPTS)
        ]
        session.select(going)


def same(mine, plain):
    for name in ("tokens", "lengths", "finished"):
        assert torch.equal(getattr(mine, name), getattr(plain, name)), name
    torch.testing.assert_close(mine.hidden, plain.hidden, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.total, plain.total, atol=1e-3, rtol=1e-4)


def forwards(tree, monkeypatch):
    run, count = tree.body.run, []
    monkeypatch.setattr(tree.body, "run", lambda ids, **given: count.append(ids.numel()) or run(ids, **given))
    return count


@pytest.mark.parametrize("path", ["segments", "masked"])
@pytest.mark.parametrize("seed", range(3))
def test_the_text_is_the_same_with_drafts_good_and_bad_and_without(sharp, monkeypatch, path, seed):
    tree = TreeModel.attach(sharp, backend=path)
    with monkeypatch.context() as patched:
        patched.setattr("ig_plugins.engine.decoding.decode.FEW", 0)
        plain, session = block(tree, seed=seed)
        session.select(torch.tensor([[0], [1]]))
        after = session.logits

    def wrong(most_wanted):
        return lambda self, text, most: [(text[-1] + 1) % 61] * min(most, most_wanted)

    for draft in (None, None, wrong(1), wrong(9)):  # cold, warm, then wrong drafts, as many every time or ever fewer
        if draft is not None:
            monkeypatch.setattr(NgramDrafts, "draft", draft)
        mine, session = block(tree, seed=seed)
        same(mine, plain)
        session.select(torch.tensor([[0], [1]]))  # a wrong draft leaves nothing behind
        torch.testing.assert_close(session.logits, after, atol=1e-3, rtol=1e-4)


def test_what_was_sampled_before_takes_fewer_forwards(sharp, monkeypatch):
    tree = TreeModel.attach(sharp)
    fed = forwards(tree, monkeypatch)
    block(tree)
    cold = len(fed)
    fed.clear()
    block(tree)
    assert len(fed) < 0.6 * cold
    assert sum(fed) < 1.5 * (sum(map(len, PROMPTS)) + 2 * 2 * 3 * 8)


def test_wrong_drafts_cost_little_however_long_a_block_is(sharp, monkeypatch):
    tree = TreeModel.attach(sharp)
    monkeypatch.setattr(NgramDrafts, "draft", lambda self, text, most: [(text[-1] + 1) % 61] * most)
    fed = forwards(tree, monkeypatch)
    found, _ = block(tree, tokens=40)
    assert int(found.lengths.sum()) > 100
    assert sum(fed) < 1.7 * (sum(map(len, PROMPTS)) + 2 * 2 * 3 * 40)


def test_drafts_grow_while_they_are_right_and_begin_anew_where_they_are_not():
    reach = FIRST
    for _ in range(3):
        reach = reach_after(reach, drafted=reach, right=reach)
    assert reach == 71
    assert reach_after(reach, drafted=3, right=3) == reach, "the memory had no more"
    assert reach_after(reach, drafted=20, right=5) == 10
    assert reach_after(reach, drafted=20, right=15) == 15
    assert [reach_after(0, drafted=0, right=0), reach_after(1, drafted=1, right=0)] == [1, 0]


def test_many_lanes_take_no_drafts(sharp, monkeypatch):
    tree = TreeModel.attach(sharp)
    monkeypatch.setattr(NgramDrafts, "draft", None)  # nobody calls it
    block(tree, lanes=FEW // 2 + 1)


def test_draws_that_depend_on_more_than_logits_take_no_drafts(sharp, monkeypatch):
    tree = TreeModel.attach(sharp)
    monkeypatch.setattr(NgramDrafts, "draft", None)
    block(tree, sampler=Sampler(repetition_penalty=1.2))
    block(tree, penalties=[torch.ones(8, 61), None])


def test_a_path_without_a_way_back_takes_no_drafts(sharp, monkeypatch):
    monkeypatch.setattr(NgramDrafts, "draft", None)
    block(TreeModel.attach(sharp, backend="portable"))


def test_the_longest_known_context_decides():
    drafts = NgramDrafts()
    drafts.learn([1, 2], [3, 4, 5])
    assert drafts.draft([0, 1, 2], 5) == [3, 4, 5]  # by two tokens
    assert drafts.draft([1, 2, 3], 1) == [4]
    assert drafts.draft([7, 7, 7], 3) == []
    drafts.learn([9, 2, 3], [6])
    assert drafts.draft([1, 2, 3], 1) == [4]  # three tokens know better
    assert drafts.draft([0, 2, 3], 1) == [6]  # the last that was sampled
    drafts.learn([1, 2, 3], [0])
    assert drafts.draft([1, 2, 3], 1) == [0]  # token 0 is a token


@pytest.mark.parametrize("path", ["segments", "masked"])
@settings(max_examples=10, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(3, 29), min_size=1, max_size=5), min_size=1, max_size=2),
    tokens=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_no_prompt_token_is_remembered_and_what_was_sampled_is_across_blocks(path, prompts, tokens, seed):
    tree, random = speaker(path), torch.Generator().manual_seed(seed)
    tree.drafts = NgramDrafts()
    session = tree.prefill(prompts, lanes=2, block=tokens, max_new=3 * tokens)
    texts = [[list(prompt)] for prompt in prompts]
    answers = []
    for _ in range(3):
        found = sample_block(
            session,
            torch.zeros(len(prompts), 2, dtype=torch.long),
            samplers=[Sampler()] * len(prompts),
            uniforms=torch.rand(len(prompts), 2, tokens, dtype=torch.float64, generator=random),
            max_tokens=[tokens] * len(prompts),
            stop_ids=[],
            histories=texts,
        )
        answers += [
            text[0][len(prompt) :] + lane
            for text, prompt, lanes in zip(texts, prompts, found.tokens.tolist(), strict=True)
            for lane in lanes
        ]
        texts = [[text[0] + lanes[1]] for text, lanes in zip(texts, found.tokens.tolist(), strict=True)]
        session.select(torch.ones(len(prompts), 1, dtype=torch.long))
    remembered = {(*key, value) for key, value in tree.drafts._new.items()}
    assert all(token >= 30 for words in remembered for token in words)
    sampled = {tuple(text[at : at + n]) for text in answers for n in (3, 4) for at in range(len(text) - n + 1)}
    assert {words[:-1] for words in remembered} == {words[:-1] for words in sampled}
    assert remembered <= sampled


def test_memory_is_bounded_and_recent_words_stay():
    drafts = NgramDrafts()
    for start in range(0, 3 * KEPT, 1000):
        drafts.learn([], range(start, start + 1000))
    assert len(drafts._new) + len(drafts._old) <= 2 * KEPT + 2000
    last = 3 * KEPT - 10
    assert drafts.draft([last, last + 1, last + 2], 1) == [last + 3]
    assert drafts.draft([10, 11, 12], 1) == []
