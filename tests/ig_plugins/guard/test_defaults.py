"""What a call does by default on a checkpoint without preset, and what is refused before any weights are read."""

import json
import time

import pytest
import torch

from ig_plugins import InferenceGuard, SearchConfig
from ig_plugins.errors import ConfigurationError, ModelLoadError
from ig_plugins.guard import policies
from langchain_inferenceguard import ChatInferenceGuard
from tests.kit.guards import cost_of_marker
from tests.kit.tiny import save_tiny

torch.set_num_threads(1)
PLACE = {"cost_model": cost_of_marker, "prompt_format": "beaver", "device": "cpu"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture
def stated(tmp_path):
    """Makes a policy whose generation_config.json says so."""

    def make(**values):
        folder = save_tiny(tmp_path / str(len(list(tmp_path.iterdir()))))["policy"]
        path = f"{folder}/generation_config.json"
        with open(path) as file:
            known = json.load(file)
        with open(path, "w") as file:
            json.dump({**known, **values}, file)
        return folder

    return make


SAMPLED = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1}


def test_a_checkpoint_is_sampled_as_its_generation_config_says(stated, folders):
    guard = InferenceGuard.from_pretrained(stated(do_sample=True, **SAMPLED), **PLACE)
    assert guard.search == SearchConfig(**SAMPLED)
    sampler = guard.components.policy.sampler(guard.request("Go."))
    assert {name: getattr(sampler, name) for name in SAMPLED} == SAMPLED
    assert InferenceGuard.from_pretrained(folders["policy"], **PLACE).search == SearchConfig()  # nothing stated


def test_what_the_caller_says_wins(stated):
    folder = stated(**SAMPLED)
    guard = InferenceGuard.from_pretrained(folder, temperature=1.3, top_k=0, **PLACE)
    assert guard.search == SearchConfig(**{**SAMPLED, "temperature": 1.3, "top_k": 0})
    assert guard.with_options(top_p=1.0).search.top_p == 1.0
    search = SearchConfig(candidates=4, beams=2)
    assert InferenceGuard.from_pretrained(folder, search=search, **PLACE).search == search


@pytest.mark.parametrize(
    "greedy", [{"do_sample": False}, {"temperature": 0.0}, {"temperature": 0.0, "do_sample": False}]
)
def test_greedy_checkpoints_are_sampled_because_a_search_needs_several_answers(stated, greedy):
    guard = InferenceGuard.from_pretrained(stated(**greedy), **PLACE, candidates=6, beams=2, max_tokens=12, seed=1)
    assert guard.search.temperature == 1.0
    assert guard.with_options(temperature=0.0).search.temperature == 0.0


def test_suppressed_tokens_are_never_sampled_and_every_eos_token_ends(stated):
    common = stated()
    usual = InferenceGuard.from_pretrained(common, **PLACE, max_tokens=30, seed=1)
    said = {token for seed in range(3) for token in usual.generate("Go.", seed=seed).token_ids}
    often, eos = sorted(said - usual.components.policy.stop_ids)[:8], sorted(said)[-1]
    guard = InferenceGuard.from_pretrained(
        stated(suppress_tokens=often, eos_token_id=[2, eos]), **PLACE, max_tokens=30, seed=1
    )
    answers = [guard.generate("Go.", seed=seed).token_ids for seed in range(3)]
    assert not {token for answer in answers for token in answer} & set(often)
    assert guard.components.policy.stop_ids == {2, eos}


def test_a_generation_config_that_nobody_can_sample_with_is_named(stated):
    with pytest.raises(ConfigurationError, match=r"generation_config\.json cannot be sampled with: top_p is 7\.0"):
        InferenceGuard.from_pretrained(stated(top_p=7.0, do_sample=True), **PLACE)


BAD = [
    ({"temprature": 0.5}, TypeError, "unknown option 'temprature'"),
    ({"temperature": -1}, ConfigurationError, "temperature is -1"),
    ({"beams": 99}, ConfigurationError, "beams is 99"),
    ({"prompt_format": "martian"}, ConfigurationError, "prompt_format is 'martian'"),
    ({"dtype": "flaot32"}, ConfigurationError, "dtype is 'flaot32'"),
    ({"budget": [1.0, 2.0]}, ConfigurationError, r"2 budget\(s\) for 1 cost model"),
    ({"budget": float("nan")}, ConfigurationError, "budget limit is nan"),
    ({"cost_model": "./no/such/judge"}, ModelLoadError, "no/such/judge is not a folder"),
    ({"reward_model": "tiny-beaver:odd"}, ConfigurationError, "'tiny-beaver' has no variant 'odd'"),
    ({"reward_model": "no-org/no-reward"}, ModelLoadError, "'no-org/no-reward' is neither"),
    ({"critic": "./no/such/critic"}, ModelLoadError, "no/such/critic is not a folder"),
    ({"cost_model": [cost_of_marker, "./no/such/judge"]}, ModelLoadError, "no/such/judge is not a folder"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_a_typo_costs_milliseconds_not_weights(folders, monkeypatch, wrong, error, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(policies, "load_weights", lambda *_, **__: pytest.fail("weights were read"))
    start = time.perf_counter()
    with pytest.raises(error, match=message):
        InferenceGuard.from_pretrained(folders["policy"], **{**PLACE, **wrong})
    assert time.perf_counter() - start < 1.0


def test_the_fields_of_an_adapter_are_checked_before_weights_too(folders, monkeypatch):
    monkeypatch.setattr(policies, "load_weights", lambda *_, **__: pytest.fail("weights were read"))
    for wrong, message in [({"temperature": -1.0}, "temperature is -1"), ({"beams": 99}, "beams is 99")]:
        with pytest.raises(ConfigurationError, match=message):
            ChatInferenceGuard(model=folders["policy"], **PLACE, **wrong).invoke("Go.")
