import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    TextClassificationPipeline,
)

from critic_models.errors import ConfigurationError, ModelLoadError
from critic_models.judges import CallableJudge, ClassifierJudge, ScoreJudge, as_judge, load_judge


@pytest.fixture
def score_folder(tmp_path, write_checkpoint, byte_tokenizer, body):
    folder = tmp_path / "cost"
    write_checkpoint(
        folder,
        vocab_size=262,
        extra={"model.embed_tokens.weight": torch.randn(262, 32)},
    )
    byte_tokenizer().save_pretrained(folder)
    return folder


def bert(**options):
    return BertConfig(
        vocab_size=262, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pad_token_id=2, **options,
    )  # fmt: skip


@pytest.fixture
def classifier_folder(tmp_path, byte_tokenizer):
    folder = tmp_path / "toxicity"
    BertForSequenceClassification(bert(id2label={0: "safe", 1: "unsafe"})).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_score_models_are_recognised_in_every_spelling(score_folder):
    scores = set()
    for architectures in (["LlamaForScore"], ["LlamaModelForScore"], None):
        raw = json.loads((score_folder / "config.json").read_text()) | {"architectures": architectures}
        (score_folder / "config.json").write_text(json.dumps(raw))
        judge = load_judge(score_folder, kind="cost")
        assert isinstance(judge, ScoreJudge)
        scores.add(judge.score(["hi"], ["yo"])[0])
    assert len(scores) == 1


def test_classifiers_and_reward_models_are_recognised(classifier_folder, tmp_path, byte_tokenizer):
    judge = as_judge(str(classifier_folder), kind="cost", name="toxicity")
    assert isinstance(judge, ClassifierJudge)
    assert judge.name == "toxicity"
    assert judge.labels == [1]
    assert load_judge(classifier_folder, kind="cost", unsafe_label="safe").labels == [0]
    BertForSequenceClassification(bert(num_labels=1)).save_pretrained(tmp_path / "reward")
    byte_tokenizer().save_pretrained(tmp_path / "reward")
    assert load_judge(tmp_path / "reward", kind="reward").single


def test_precision_and_placing_reach_transformers(classifier_folder):
    assert load_judge(classifier_folder, kind="cost", dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert load_judge(classifier_folder, kind="cost", device_map={"": "cpu"}).score(["a"], ["b"])


def test_loaded_models_and_pipelines_are_judges(classifier_folder):
    judge = load_judge(classifier_folder, kind="cost")
    wanted = judge.score(["a"], ["b"])
    assert as_judge((judge.model, judge.tokenizer), kind="cost").score(["a"], ["b"]) == wanted
    pipeline = TextClassificationPipeline(model=judge.model, tokenizer=judge.tokenizer)
    assert as_judge(pipeline, kind="cost").score(["a"], ["b"]) == wanted
    assert as_judge(judge, kind="cost") is judge
    with pytest.raises(ConfigurationError, match="cannot be renamed"):
        as_judge(judge, kind="cost", name="other")


def test_what_is_no_judge_is_refused(classifier_folder, byte_tokenizer, body):
    model = load_judge(classifier_folder, kind="cost").model
    with pytest.raises(ConfigurationError, match=r"give the pair \(model, tokenizer\)"):
        as_judge(model, kind="cost")
    with pytest.raises(ConfigurationError, match=r"int is not a judge; give a callable"):
        as_judge(3, kind="cost")
    with pytest.raises(ConfigurationError, match="second part is str"):
        as_judge((model, "tokenizer"), kind="cost")
    with pytest.raises(ConfigurationError, match="does not know one of the options"):
        as_judge((model, byte_tokenizer()), kind="cost", colour="red")
    with pytest.raises(ConfigurationError, match="can score cost, not reward"):
        as_judge((LlamaForCausalLM(LlamaConfig(**body)), byte_tokenizer()), kind="reward")
    with pytest.raises(ConfigurationError, match="BertForMaskedLM is no model that judges"):
        as_judge((BertForMaskedLM(bert()), byte_tokenizer()), kind="cost")
    assert isinstance(as_judge(lambda p, r: [0.0], kind="cost"), CallableJudge)


def test_bad_checkpoints_are_refused(classifier_folder, tmp_path, byte_tokenizer):
    def raw(**change):
        config = json.loads((classifier_folder / "config.json").read_text()) | change
        (classifier_folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelLoadError, match="is not a folder"):
        load_judge(tmp_path / "nowhere", kind="cost")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        load_judge(tmp_path / "empty", kind="cost")

    raw(architectures=["BertForMaskedLM"])
    with pytest.raises(ModelLoadError, match=r"architectures are \['BertForMaskedLM'\], and a judge is"):
        load_judge(classifier_folder, kind="cost")
    raw(architectures=["BertForSequenceClassification"])

    weights = classifier_folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "classifier.weight"}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks classifier\.weight"):
        load_judge(classifier_folder, kind="cost")
    save_file(tensors | {"classifier.bias": torch.tensor([float("nan"), 0])}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"classifier\.bias holds NaN"):
        load_judge(classifier_folder, kind="cost")
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelLoadError, match="truncated or corrupt"):
        load_judge(classifier_folder, kind="cost")
    weights.rename(classifier_folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="pickled weights"):
        load_judge(classifier_folder, kind="cost")

    (classifier_folder / "tokenizer.json").unlink()
    (classifier_folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelLoadError, match="no tokenizer"):
        load_judge(classifier_folder, kind="cost")
