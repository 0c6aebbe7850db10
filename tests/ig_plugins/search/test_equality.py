"""The same seed gives the same answer: alone or in a batch, at once or streamed, joined early or late."""

import asyncio

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins.search import Capacity
from tests.kit.observe import fan_out
from tests.kit.tiny import tiny_guard

torch.set_num_threads(1)
PROMPTS = ["a", "What is it?", "A longer question, with more words in it than the others."]
SETTINGS = [
    {"seed": 3},
    {"seed": 4, "candidates": 3, "beams": 3, "block_tokens": 3, "max_tokens": 11},
    {"seed": 5, "temperature": 0.7, "top_k": 20, "budget": 3.0, "stop": ["a", "e"]},
    {"seed": 6, "top_p": 0.8, "repetition_penalty": 1.3, "tries": 3, "budget": 1.0},
]
NARROW = {"candidates": 3, "beams": 1, "block_tokens": 3, "max_tokens": 18}  # a row that is left has a single beam
OUTLIVED = [  # answers end at different times, prompts differ much in length
    {**NARROW, "seed": 1},
    {**NARROW, "seed": 2, "candidates": 1, "tries": 1},
    {**NARROW, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2, "tries": 3, "budget": SafetyBudget(limit=1.0)},
    {**NARROW, "seed": 4, "beams": 2, "tries": 4, "budget": SafetyBudget(limit=0.5, accounting="worst")},
]


@pytest.fixture(scope="module")
def guard():
    return tiny_guard()


def essence(result):
    """All that must be equal; measured numbers are compared apart, to rounding."""
    return result.text, result.token_ids, result.blocked, result.finish_reason, result.usage, result.seed


def same(first, second):
    assert essence(first) == essence(second)
    for name in ("cost", "reward", "safety_state"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize("options", SETTINGS, ids=range(len(SETTINGS)))
def test_four_ways_to_ask(guard, options):
    async def later():
        chunks = [chunk async for chunk in guard.astream(PROMPTS[1], **options)]
        return await guard.agenerate(PROMPTS[1], **options), chunks

    plain = guard.generate(PROMPTS[1], **options)
    awaited, achunks = asyncio.run(later())
    chunks = list(guard.stream(PROMPTS[1], **options))
    same(plain, awaited)
    for streamed in (chunks, achunks):
        same(plain, streamed[-1].result)
        assert "".join(chunk.text for chunk in streamed) == plain.text
        assert all(chunk.result is None for chunk in streamed[:-1])
        assert all(chunk.text for chunk in streamed[:-1])


def test_a_batch_equals_its_prompts_alone(guard):
    together = guard.generate(PROMPTS, seed=7)
    for prompt, result in zip(PROMPTS, together, strict=True):
        same(guard.generate(prompt, seed=7), result)


@pytest.mark.parametrize("options", OUTLIVED, ids=range(len(OUTLIVED)))
def test_an_answer_outlives_longer_prompts(guard, options):
    asked = [word * count for word in ("Go. ", "What? ") for count in (1, 9, 30)]
    together = guard.generate(asked, **options)
    assert len({len(each.token_ids) for each in together}) > 1
    for prompt, result in zip(asked, together, strict=True):
        same(guard.generate(prompt, **options), result)


def test_concurrent_callers_with_different_settings_share_batches(guard):
    asked = [(PROMPTS[n % 3], SETTINGS[n % 4]) for n in range(12)]
    alone = [guard.generate(prompt, **options) for prompt, options in asked]
    together = fan_out(lambda ask: guard.generate(ask[0], **ask[1]), asked, threads=12)
    for one, other in zip(alone, together, strict=True):
        same(one, other)


def test_rows_that_join_in_mid_flight(guard):
    """The search driven by hand: a row is admitted before every block, others end in between."""
    handles = [guard.prepare(prompt, seed=n) for n, prompt in enumerate(PROMPTS * 2)]
    waiting = [handle.request for handle in handles]
    search = guard.components.start_search(
        Capacity.of(waiting), on_release=lambda row, step: None, call=lambda ask: ask()
    )
    found = {}
    with torch.inference_mode():
        while waiting or search.rows:
            if waiting:
                search.add_rows([waiting.pop(0)])
            for outcome in search.step():
                found[outcome.row.request] = outcome
    assert len(found) == len(handles)
    for n, handle in enumerate(handles):
        outcome = found[handle.request]
        alone = guard.generate((PROMPTS * 2)[n], seed=n)
        assert outcome.answer.text == alone.text
        assert outcome.answer.reward == pytest.approx(alone.reward, abs=1e-3)


def test_seeds_decide(guard):
    assert guard.generate("a", seed=1).text == guard.generate("a", seed=1).text
    assert len({guard.generate("a", seed=seed).text for seed in range(4)}) == 4
    free = guard.generate("a", seed=None)
    assert guard.generate("a", seed=free.seed).text == free.text
    assert guard.generate("a", seed=None).seed != free.seed


def test_with_options_changes_defaults_and_shares_weights(guard):
    changed = guard.with_options(max_tokens=6, seed=9, budget=2.5)
    assert changed.components is guard.components
    assert changed.search.max_new_tokens == 6
    assert changed.budget.limit == 2.5
    assert guard.search.max_new_tokens == 20
    assert guard.budget.limit == 10.0
    same(changed.generate("a"), guard.generate("a", max_tokens=6, seed=9, budget=2.5))
    assert changed.identity() != guard.identity()
