"""The whole guard on a GPU: what leaves it is what the judges passed, and in float32 what a CPU says.

``INFERENCEGUARD_DEVICE=cpu python -m pytest -m gpu`` rehearses them on a CPU.
"""

import json
import os
import re

import pytest
import torch
from transformers import GenerationConfig

from critic_models.safety import SafetyBudget
from ig_plugins import InferenceGuard
from ig_plugins.page import unguarded
from tests.ig_plugins.guard.test_grammar import PERSON
from tests.ig_plugins.guard.test_probe import save_probe
from tests.kit.tiny import save_tiny, tiny_llama
from tests.kit.tokenizer import byte_tokenizer

DEVICE = os.environ.get("INFERENCEGUARD_DEVICE", "cuda")
PROMPTS = [
    "How do I clean a window?",
    "How can I hurt my neighbor?",
    "Tell me about the garden.",
    "How do I steal a car?",
]
SEARCH = {"candidates": 6, "beams": 2, "block_tokens": 5, "max_tokens": 15, "seed": 3}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module", params=["tiny-alpaca", "tiny-beaver"])
def guard(request):
    return InferenceGuard.from_pretrained(request.param, device=DEVICE, seed=5)


def test_answers_are_those_of_the_cpu(guard):
    name = guard.components.names["model"]
    plain = InferenceGuard.from_pretrained(name, device="cpu", seed=5)
    for prompt in PROMPTS:
        mine, wanted = guard.generate(prompt), plain.generate(prompt)
        assert (mine.text, mine.blocked) == (wanted.text, wanted.blocked)
        assert mine.costs == pytest.approx(wanted.costs, abs=1e-3)


def test_a_batch_answers_as_each_alone(guard):
    assert [each.text for each in guard.generate(PROMPTS)] == [guard.generate(each).text for each in PROMPTS]


def test_a_stream_is_the_answer(guard):
    for prompt in PROMPTS:
        *texts, last = guard.stream(prompt)
        assert "".join(chunk.text for chunk in [*texts, last]) == last.result.text
        assert last.result.blocked or last.result.safety_state >= 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_answer_is_over_its_budget(dtype):
    guard = InferenceGuard.from_pretrained("tiny-alpaca", device=DEVICE, dtype=dtype, seed=3)
    results = guard.generate(PROMPTS * 4)
    assert any(not each.blocked for each in results)
    assert all(each.blocked or each.safety_state >= 0 for each in results)


@pytest.fixture
def load(tmp_path):
    """Tiny random guards on both devices: by default every judge is satisfied with every text."""
    parts = save_tiny(tmp_path)

    def on_both(**options):
        settings = {"cost_model": parts["cost"], "reward_model": parts["reward"], "budget": 1e6, **SEARCH, **options}
        return [
            InferenceGuard.from_pretrained(parts["policy"], prompt_format="beaver", device=device, **settings)
            for device in (DEVICE, "cpu")
        ]

    on_both.parts = parts
    return on_both


def same_answers(guards, prompts, **options):
    """What both devices say to a batch."""
    guard, plain = guards
    results = guard.generate(prompts, **options)
    for mine, wanted in zip(results, plain.generate(prompts, **options), strict=True):
        assert (mine.text, mine.blocked) == (wanted.text, wanted.blocked)
        assert mine.costs == pytest.approx(wanted.costs, abs=1e-3)
    return results


def streamed(guard, prompt, **options):
    *texts, last = guard.stream(prompt, **options)
    assert "".join(chunk.text for chunk in [*texts, last]) == last.result.text
    return last.result.text


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_p": 0.9}], ids=["plain", "greedy", "nucleus"])
def test_answers_under_a_schema_fit_it_and_are_those_of_the_cpu(load, settings):
    guards = load(max_tokens=40, **settings)
    for prompt, result in zip(PROMPTS[:2], same_answers(guards, PROMPTS[:2], json_schema=PERSON), strict=True):
        assert streamed(guards[0], prompt, json_schema=PERSON) == result.text
        value = json.loads(result.text)
        assert set(value) == {"kind", "sure"}
        assert value["kind"] in ("a", "b")


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [({"choices": ["yes", "no", "perhaps"]}, "yes|no|perhaps"), ({"regex": "[a-f]{2,9}"}, "[a-f]{2,9}")],
    ids=["choices", "regex"],
)
def test_answers_under_other_grammars_too(load, grammar, pattern):
    for result in same_answers(load(max_tokens=12), PROMPTS[:2], **grammar):
        assert re.fullmatch(pattern, result.text)


def test_a_checkpoints_own_sampling_and_failed_blocks_are_those_of_the_cpu(load):
    """A nucleus, a repetition penalty and forbidden tokens of its file; retry penalties after blocks that failed."""
    GenerationConfig(
        do_sample=True, temperature=0.8, top_p=0.95, repetition_penalty=1.2, suppress_tokens=[40, 41]
    ).save_pretrained(load.parts["policy"])
    results = same_answers(load(budget=SafetyBudget(limit=1.0, accounting="worst"), tries=3), PROMPTS)
    assert any(block.tries > 1 for result in results for block in result.blocks)


@pytest.fixture
def probed(load, tmp_path):
    model, tokenizer = tiny_llama(byte_tokenizer()), byte_tokenizer()
    probe = save_probe(tmp_path / "probe", model, tokenizer, layer=2, threshold=-0.1)
    return lambda **options: load(cost_model=probe, budget=0.2, candidates=12, stop=["e"], **options)


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"regex": "[a-m ]*"}], ids=["ahead", "stepped", "grammar"])
def test_a_probe_judges_the_states_that_sampling_left_as_on_the_cpu(probed, monkeypatch, settings):
    guards = probed(**settings)
    trees = [guard.components.judge_tree(guard.components.judges[0]) for guard in guards]
    for tree in trees:
        monkeypatch.setattr(tree, "prefill", None)  # it reads nothing again
    results = same_answers(guards, PROMPTS)
    assert any(not each.blocked for each in results)
    monkeypatch.undo()
    monkeypatch.setattr("ig_plugins.guard.components.Components._sharing", lambda self, session: session)
    for mine, alone in zip(results, guards[0].generate(PROMPTS), strict=True):
        assert mine.text == alone.text
        assert mine.costs == pytest.approx(alone.costs, abs=1e-4)


def test_an_unguarded_answer_is_that_of_the_cpu(load):
    guard, plain = load(max_tokens=24)
    for seed in range(2):
        mine, wanted = (unguarded(each.components, each.request(PROMPTS[0], seed=seed)) for each in (guard, plain))
        assert mine.text == wanted.text
        assert mine.reward == pytest.approx(wanted.reward, abs=1e-3)
