"""The build command, from nothing, on a shortened plan."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from critic_models.bundled import MODELS
from critic_models.bundled.build import text_example
from critic_models.bundled.tokenizer import world_tokenizer
from critic_models.bundled.world.corpus import BEGIN, turn
from critic_models.score_models import ScoreModel


@pytest.fixture(scope="module")
def tokenizer():
    return world_tokenizer(documents=300)


def test_answers_weigh_more_than_prompts(tokenizer):
    ids, weights = text_example(BEGIN + turn("Hello", "Thank you.") + turn("Hi", "Good luck."), tokenizer)
    heavy = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 1.0])
    assert heavy == "Thank you.</s>Good luck.</s>"


def test_declarative_text_weighs_the_same_throughout(tokenizer):
    assert set(text_example("The pan is new.</s>", tokenizer)[1]) == {1.0}


def test_the_tokenizer_encodes_any_text_and_puts_bos_first(tokenizer):
    text = "Grüße, 你好 🙂\tthe kettle"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:]


def test_the_tokenizer_does_not_depend_on_chance(tokenizer):
    assert world_tokenizer(documents=300).get_vocab() == tokenizer.get_vocab()


@pytest.mark.slow
def test_one_command_builds_all_models_twice_the_same(tmp_path):
    def build(name: str) -> dict[str, dict[str, torch.Tensor]]:
        command = [sys.executable, "-m", "critic_models.bundled.build", "--out", str(tmp_path / name)]
        done = subprocess.run([*command, "--quick", "--threads", "1"], check=True, capture_output=True, text=True)
        assert "step" in done.stdout, "a log without a terminal must show progress too"
        return {model: load_file(tmp_path / name / model / "model.safetensors") for model in MODELS}

    first, second = build("first"), build("second")
    for model in MODELS:
        assert first[model].keys() == second[model].keys()
        assert all(torch.equal(first[model][key], second[model][key]) for key in first[model])
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "first" / "tiny-alpaca")
    assert policy.dtype == torch.float32
    assert ScoreModel.from_pretrained(tmp_path / "first" / "tiny-cost").settings.score_type == "cost"
