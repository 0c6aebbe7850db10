"""Training of score models on token targets, on labels and on preferences."""

import random

import pytest
import torch
from transformers import LlamaConfig

from critic_models.bundled.tokenizer import train_tokenizer
from critic_models.errors import ConfigurationError
from critic_models.score_models import ScoreModel
from critic_models.training.policy import TrainingPlan, batches
from critic_models.training.scores import ScoreExample, epochs, labelled, preferred, train_score_model

PLAN = TrainingPlan(steps=60, batch_tokens=256, learning_rate=1e-2, matrix_rate=2e-2)
WORDS = ["red", "blue", "green", "warm", "cold", "soft"]
trains = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="trains with Muon, which torch has from 2.9 on")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 50, vocabulary=300)


def _model(tokenizer) -> ScoreModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return ScoreModel.build(config, score_type="cost")


def _texts(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 6))) for _ in range(count)]


def _end_score(model: ScoreModel, tokenizer, text: str) -> float:
    ids = torch.tensor([labelled("Q:", text, 0.0, tokenizer).ids])
    with torch.inference_mode():
        return float(model.end_scores(ids, torch.ones_like(ids)))


@trains
def test_labels_of_whole_responses_are_learned(tokenizer):
    examples = [labelled("Q:", text, float("red" in text), tokenizer) for text in _texts(random.Random(0), 200)]
    model = train_score_model(_model(tokenizer), epochs(examples), PLAN, objective="classify", seed=0)
    assert _end_score(model, tokenizer, "cold red soft") > 0 > _end_score(model, tokenizer, "cold blue soft")


@trains
def test_preferences_are_learned(tokenizer):
    texts = _texts(random.Random(0), 200)
    examples = [preferred("Q:", text + " red", text + " blue", tokenizer) for text in texts]
    model = train_score_model(_model(tokenizer), epochs(examples), PLAN, objective="prefer", seed=0)
    assert _end_score(model, tokenizer, "cold red") > _end_score(model, tokenizer, "cold blue") + 1


@trains
def test_token_targets_are_learned_where_they_weigh(tokenizer):
    def draw(rng: random.Random) -> ScoreExample:
        ids = labelled("Q:", _texts(rng, 1)[0], 0.0, tokenizer).ids
        red = tokenizer(" red", add_special_tokens=False).input_ids[-1]
        return ScoreExample(ids, [5.0 if token == red else -1.0 for token in ids], [0.0, *[1.0] * (len(ids) - 1)])

    model = train_score_model(_model(tokenizer), draw, PLAN, objective="regress", seed=0)
    example = draw(random.Random(99))
    ids = torch.tensor([example.ids])
    with torch.inference_mode():
        scores = model.score_tokens(ids, torch.ones_like(ids))[0, 1:]
    assert torch.allclose(scores, torch.tensor(example.targets[1:]), atol=1.5)


def test_the_label_falls_on_the_response_only(tokenizer):
    example = labelled("Q: red", "blue", 1.0, tokenizer, prefixes=0.0)
    assert example.ids[-1] == tokenizer.eos_token_id
    assert example.weights[-1] == 1.0
    assert sum(example.weights) == 1.0


@trains
def test_same_seed_same_model(tokenizer):
    examples = [labelled("Q:", text, float("red" in text), tokenizer) for text in _texts(random.Random(0), 50)]
    plan = TrainingPlan(steps=5, batch_tokens=128)
    first, second = (
        train_score_model(_model(tokenizer), epochs(examples), plan, objective="regress", seed=3) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_epochs_give_every_example_before_any_comes_again(tokenizer):
    examples = [labelled("Q:", word, 0.0, tokenizer) for word in WORDS]
    draw, rng = epochs(examples), random.Random(0)
    assert {tuple(draw(rng).ids) for _ in WORDS} == {tuple(example.ids) for example in examples}


def test_batches_respect_their_size_unless_one_example_is_longer():
    stream = batches(lambda rng: ([0] * rng.randint(1, 40), [1.0]), tokens=64, rng=random.Random(0))
    for _ in range(50):
        batch = next(stream)
        assert len(batch) == 1 or len(batch) * max(len(example[0]) for example in batch) <= 64


@trains
def test_the_wrong_kind_of_example_is_named(tokenizer):
    draw = epochs([preferred("Q:", "red", "blue", tokenizer)])
    with pytest.raises(
        ConfigurationError, match=r"'regress' was given a PreferenceExample; it learns from ScoreExample"
    ):
        train_score_model(_model(tokenizer), draw, PLAN, objective="regress", seed=0)


def test_no_examples_is_an_error():
    with pytest.raises(ConfigurationError, match="at least one"):
        epochs([])


@trains
def test_a_label_that_is_no_number_stops_the_training(tokenizer):
    draw = epochs([labelled("Q:", "red", float("nan"), tokenizer)])
    with pytest.raises(ConfigurationError, match="loss is nan at step 0"):
        train_score_model(_model(tokenizer), draw, PLAN, objective="regress", seed=0)


def test_a_torch_without_the_optimiser_is_named(tokenizer, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    draw = epochs([labelled("Q:", "red", 0.0, tokenizer)])
    with pytest.raises(ConfigurationError, match=r"torch 2\.9 or newer.*pip install"):
        train_score_model(_model(tokenizer), draw, PLAN, objective="regress", seed=0)
