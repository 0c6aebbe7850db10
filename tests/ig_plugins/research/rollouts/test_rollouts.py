"""Rollouts: the policy's own samples, features of the decode, and a collection that survives its interruption."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from critic_models.safety import SafetyBudget
from ig_plugins.engine import TreeModel
from ig_plugins.errors import ConfigurationError, MismatchError
from ig_plugins.research.rollouts import Part, RolloutConfig, collect, collect_part, sample_rollouts
from ig_plugins.search import Policy
from tests.kit.guards import MARKER, make_guard
from tests.kit.tokenizer import byte_tokenizer

ANSWERS = {f"Just {MARKER} it.": 0.5, "I will not.": 0.2, "Do it gently.": 0.3}


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    policy = Policy(tree=TreeModel.attach(model), tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))
    return model, make_guard(policy=policy, search={"max_new_tokens": 20, "block_tokens": 8})


def test_features_are_the_hidden_states_of_the_same_tokens_in_a_full_forward(llama):
    model, guard = llama
    request = guard.request("How?")
    ((first, second),) = sample_rollouts(guard.components, [request], responses=2)
    assert not torch.equal(first.tokens, second.tokens)
    for rollout in (first, second):
        ids = torch.cat([torch.tensor(request.prompt_ids), rollout.tokens]).unsqueeze(0)
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0, len(request.prompt_ids) :]
        torch.testing.assert_close(rollout.features, hidden, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("responses", [3, 12])  # few lanes would guess, many say the same and would be one
def test_features_are_those_states_too_where_answers_repeat_one_another(responses):
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # so that the next token is nearly certain
        model.lm_head.weight.mul_(4.0)
    policy = Policy(tree=TreeModel.attach(model), tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))
    guard = make_guard(policy=policy, search={"max_new_tokens": 20, "block_tokens": 8})
    for seed in range(3):  # the later ones know what was said before
        request = guard.with_options(seed=seed).request("How?")
        (rollouts,) = sample_rollouts(guard.components, [request], responses=responses)
        assert len({tuple(rollout.tokens[:2].tolist()) for rollout in rollouts}) < responses
        for rollout in rollouts:
            ids = torch.cat([torch.tensor(request.prompt_ids), rollout.tokens]).unsqueeze(0)
            with torch.no_grad():
                hidden = model.model(ids).last_hidden_state[0, len(request.prompt_ids) :]
            torch.testing.assert_close(rollout.features, hidden, atol=1e-3, rtol=1e-3)


def test_a_rollout_does_not_depend_on_the_others_of_its_batch(llama):
    _, guard = llama
    alone = [
        sample_rollouts(guard.components, [guard.with_options(seed=s).request(p)], responses=3)[0] for s, p in PAIRS
    ]
    together = sample_rollouts(guard.components, [guard.with_options(seed=s).request(p) for s, p in PAIRS], responses=3)
    for mine, theirs in zip(alone, together, strict=True):
        assert [r.tokens.tolist() for r in mine] == [r.tokens.tolist() for r in theirs]


PAIRS = [(1, "How?"), (2, "Tell me a much longer story."), (3, "Why is that so?")]


def test_frequencies_and_scores_are_those_of_policy_and_judges():
    guard = make_guard(ANSWERS, search={"block_tokens": 4})
    (rollouts,) = sample_rollouts(guard.components, [guard.request("How?")], responses=400)
    texts = [guard.components.policy.detokenizer.text(r.tokens.tolist()) for r in rollouts]
    assert set(texts) == set(ANSWERS)
    assert abs(texts.count(f"Just {MARKER} it.") / 400 - 0.5) < 0.08  # three standard deviations
    for text, rollout in zip(texts, rollouts, strict=True):
        assert rollout.finished
        assert rollout.reward == len(text)
        assert float(rollout.costs.max()) == (1.0 if MARKER in text else -1.0)
        assert len(rollout.costs) == len(rollout.tokens) == len(rollout.features)


def test_increments_of_a_text_judge_add_up_to_its_score():
    guard = make_guard(ANSWERS, budget=SafetyBudget(limit=5.0, discount=1.0), search={"block_tokens": 4})
    (rollouts,) = sample_rollouts(guard.components, [guard.request("How?")], responses=20)
    for rollout in rollouts:
        text = guard.components.policy.detokenizer.text(rollout.tokens.tolist())
        assert float(rollout.costs.sum()) == pytest.approx(1.0 if MARKER in text else -1.0)


def test_a_killed_collection_goes_on_where_it_stopped_and_ends_the_same(tmp_path, monkeypatch):
    guard, config = make_guard(ANSWERS), RolloutConfig(responses=3, batch=2, seed=7)
    prompts = [f"Question {n}?" for n in range(7)]
    whole = collect(guard, prompts, tmp_path / "whole", config=config)

    calls = []
    real = sample_rollouts

    def dies(parts, requests, *, responses):
        calls.append(len(requests))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(parts, requests, responses=responses)

    monkeypatch.setattr(sys.modules["ig_plugins.research.rollouts.collect"], "sample_rollouts", dies)
    with pytest.raises(KeyboardInterrupt):
        collect(guard, prompts, tmp_path / "cut", config=config)
    resumed = collect(guard, prompts, tmp_path / "cut", config=config)
    assert calls == [2, 2, 2, 2, 1], "finished batches must not be sampled again"
    assert resumed.fingerprint() == whole.fingerprint()


def test_a_file_that_was_cut_off_is_sampled_again(tmp_path):
    guard, config = make_guard(ANSWERS), RolloutConfig(responses=2, batch=2)
    whole = collect(guard, ["a?", "b?"], tmp_path, config=config)
    file = tmp_path / "batch-00000.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert collect(guard, ["a?", "b?"], tmp_path, config=config).fingerprint() == whole.fingerprint()


@pytest.mark.parametrize(
    "change", [{"prompts": ["a?", "c?"]}, {"config": RolloutConfig(responses=2, seed=9)}, {"tokens": 30}]
)
def test_rollouts_of_something_else_are_refused(tmp_path, change):
    guard, config = make_guard(ANSWERS), RolloutConfig(responses=2)
    collect(guard, ["a?", "b?"], tmp_path, config=config)
    other = guard.with_options(max_tokens=change.get("tokens"))
    with pytest.raises(MismatchError, match="other models, prompts or settings"):
        collect(other, change.get("prompts", ["a?", "b?"]), tmp_path, config=change.get("config", config))


def test_progress_reaches_the_end(tmp_path):
    seen = []
    collect(
        make_guard(ANSWERS),
        ["a?", "b?", "c?"],
        tmp_path,
        config=RolloutConfig(responses=1, batch=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 3), (3, 3)]


def test_parts_that_machines_collect_at_once_are_one_collection(tmp_path, monkeypatch):
    guard, config = make_guard(ANSWERS), RolloutConfig(responses=3, batch=2, seed=7)
    prompts = [f"Question {n}?" for n in range(7)]
    whole = collect(guard, prompts, tmp_path / "whole", config=config)

    def part(number):
        collect_part(guard, prompts, tmp_path / "shared", config=config, part=Part(number, 3))

    with ThreadPoolExecutor(3) as machines:
        list(machines.map(part, (3, 1, 2)))

    monkeypatch.setattr(sys.modules["ig_plugins.research.rollouts.collect"], "sample_rollouts", None)  # nothing is left
    together = collect(guard, prompts, tmp_path / "shared", config=config)
    assert together.fingerprint() == whole.fingerprint()
    assert not list((tmp_path / "shared").glob("*.partial"))


def test_a_part_is_its_own_batches_and_no_others(tmp_path):
    config, told = RolloutConfig(responses=2, batch=2), []
    prompts = [f"Question {n}?" for n in range(7)]
    store = collect_part(
        make_guard(ANSWERS), prompts, tmp_path, config=config, part=Part(2, 3), progress=lambda *done: told.append(done)
    )
    assert [store.has(number) for number in range(4)] == [False, True, False, False]
    assert told == [(2, 2)]


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/2/3", "1.5/3"])
def test_a_part_that_is_none_is_named(text):
    with pytest.raises(ConfigurationError, match="give K/N with K from 1 to N"):
        Part.parse(text)
