import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, GPT2Config, LlamaConfig, LlamaModel, Qwen2Config
from transformers.quantizers import HfQuantizer

from critic_models.errors import ModelLoadError
from critic_models.score_models import ScoreModel


def reference(body, tensors, ids, *, normalise=None):
    """An independent implementation: one row at a time, no padding, the head as a plain dot product."""
    body = LlamaModel(LlamaConfig(**body))
    body.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    body.eval()
    with torch.no_grad():
        hidden = body(torch.tensor([ids])).last_hidden_state[0]
    scores = (hidden * tensors["score_head.weight"][0]).sum(-1)
    if "score_head.bias" in tensors:
        scores = scores + tensors["score_head.bias"]
    if normalise:
        mean, var = tensors["normalizer.mean"].item(), tensors["normalizer.var"].item()
        scores = (scores - mean if normalise == "reward" else scores) / (var**0.5 + 1e-8)
    return scores


def ragged(rows):
    width = max(map(len, rows))
    ids = torch.tensor([row + [98] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


@pytest.fixture
def check_parity(body):
    return partial(_check_parity, body)


def _check_parity(body, folder, tensors, *, normalise=None):
    rows = [torch.randint(0, 98, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (7, 1, 12, 4)]
    model = ScoreModel.from_pretrained(folder)
    ids, mask = ragged(rows)
    with torch.no_grad():
        scores, ends = model.score_tokens(ids, mask), model.end_scores(ids, mask)
    for row, got, end in zip(rows, scores, ends, strict=True):
        wanted = reference(body, tensors, row, normalise=normalise)
        torch.testing.assert_close(got[: len(row)], wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(end, wanted[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("architecture", ["LlamaForScore", "LlamaModelForScore"])
@pytest.mark.parametrize("score_type", ["reward", "cost", "critic"])
def test_raw_scores_equal_the_reference(tmp_path, bias, architecture, score_type, write_checkpoint, check_parity):
    tensors = write_checkpoint(tmp_path, bias=bias, architectures=[architecture], score_type=score_type)
    check_parity(tmp_path, tensors)


@pytest.mark.parametrize("kind", ["RunningMeanStd", "ExponentialMovingAverage"])
@pytest.mark.parametrize("score_type", ["reward", "cost"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_normalised_scores_equal_the_reference(tmp_path, kind, score_type, rank, write_checkpoint, check_parity):
    tensors = write_checkpoint(tmp_path, rank=rank, do_normalize=True, normalizer_type=kind, score_type=score_type)
    check_parity(tmp_path, tensors, normalise=score_type)


@pytest.mark.parametrize("change", [{"score_type": "critic"}, {"score_type": "cost", "normalizer_type": None}])
def test_nothing_to_normalise_with_leaves_raw_scores(tmp_path, change, write_checkpoint, check_parity):
    check_parity(tmp_path, write_checkpoint(tmp_path, do_normalize=True, **change))


def test_statistics_of_the_config_stand_in_for_missing_buffers(tmp_path, write_checkpoint, check_parity):
    tensors = write_checkpoint(
        tmp_path, stats=None, score_type="reward", do_normalize=True, mean=[0.3], var=[4.0], momentum=0.9
    )
    tensors |= {"normalizer.mean": torch.tensor([0.3]), "normalizer.var": torch.tensor([4.0])}
    check_parity(tmp_path, tensors, normalise="reward")


def test_bias_key_of_the_config_is_not_the_heads_bias(tmp_path, write_checkpoint):
    """Public configs say "bias": false and "score_bias": true; the head keeps its bias."""
    tensors = write_checkpoint(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["bias"] is False
    assert ScoreModel.from_pretrained(tmp_path).score_head.bias.item() == pytest.approx(
        tensors["score_head.bias"].item()
    )


def test_score_bias_defaults_to_true(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["score_bias"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert ScoreModel.from_pretrained(tmp_path).score_head.bias is not None


def test_a_bias_without_a_place_is_refused_not_dropped(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path, score_bias=False)
    with pytest.raises(ModelLoadError, match=r"no place for score_head\.bias.*score_bias"):
        ScoreModel.from_pretrained(tmp_path)


def test_head_stays_in_float32_when_the_body_does_not(tmp_path, write_checkpoint):
    tensors = write_checkpoint(tmp_path)
    model = ScoreModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.body.embed_tokens.weight.dtype == torch.bfloat16
    assert model.score_head.weight.dtype == torch.float32
    assert torch.equal(model.score_head.weight, tensors["score_head.weight"])
    assert model.score_hidden(torch.zeros(2, 3, 32, dtype=torch.bfloat16)).shape == (2, 3)
    assert model.score_tokens(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4)).dtype == torch.float32


def test_quantisers_leave_the_head_alone(checkpoint):
    """By itself transformers skips only the last parameter, here the head's bias, and would pack the head's weight."""
    model = ScoreModel.from_pretrained(checkpoint)
    assert "score_head" in HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)


def test_device_map_passes_through_to_transformers(checkpoint):
    model = ScoreModel.from_pretrained(checkpoint, device_map="auto")
    assert model.device.type == "cpu"


def test_a_scores_checkpoint_of_another_family_loads(tmp_path, body):
    for config in (
        GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0),
        Qwen2Config(**body),
    ):
        folder = tmp_path / config.model_type
        model = ScoreModel.build(config, score_type="reward").eval()
        model.save_pretrained(folder)
        ids = torch.randint(0, 50, (2, 6))
        hidden = AutoModel.from_config(config).eval()
        hidden.load_state_dict(model.body.state_dict())
        wanted = hidden(ids).last_hidden_state @ model.score_head.weight[0] + model.score_head.bias
        torch.testing.assert_close(ScoreModel.from_pretrained(folder)(ids), wanted, atol=1e-5, rtol=0)


def test_save_and_load_round_trip_in_shards(tmp_path, body):
    model = ScoreModel.build(
        LlamaConfig(**body), score_type="cost", normalizer_type="RunningMeanStd", do_normalize=True
    )
    model.normalizer.update(torch.randn(64) * 3)
    model.eval().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["architectures"] == ["LlamaForScore"]
    assert (raw["score_type"], raw["score_bias"], raw["do_normalize"]) == ("cost", True, True)
    again = ScoreModel.from_pretrained(tmp_path)
    ids = torch.randint(0, 98, (2, 9))
    torch.testing.assert_close(model(ids), again(ids), atol=1e-6, rtol=0)
    assert again.normalizer.count.item() == 64


def test_saved_names_are_exactly_those_of_the_layout(tmp_path, write_checkpoint, body):
    public = set(write_checkpoint(tmp_path / "public"))
    ScoreModel.build(LlamaConfig(**body)).save_pretrained(tmp_path / "ours")
    assert set(load_file(tmp_path / "ours/model.safetensors")) == public


def test_running_statistics_equal_those_of_all_scores_at_once(body):
    model = ScoreModel.build(LlamaConfig(**body), normalizer_type="RunningMeanStd")
    scores = torch.randn(50) * 2 + 5
    for part in scores.split(7):
        model.normalizer.update(part)
    torch.testing.assert_close(model.normalizer.mean, scores.mean().view(1))
    torch.testing.assert_close(model.normalizer.var, scores.var(unbiased=False).view(1))


def edit(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name) if tensor is None else tensors.update({name: tensor})
    save_file(tensors, folder / "model.safetensors")


def test_bad_checkpoints_are_refused_with_what_and_what_next(tmp_path, checkpoint):
    def case(name):
        folder = tmp_path / name
        shutil.copytree(checkpoint, folder)
        return folder

    folder = case("truncated")
    blob = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(ModelLoadError, match=r"truncated or corrupt.*again"):
        ScoreModel.from_pretrained(folder)

    folder = case("corrupt")
    (folder / "model.safetensors").write_bytes(b"\xff" * 200)
    with pytest.raises(ModelLoadError, match="truncated or corrupt"):
        ScoreModel.from_pretrained(folder)

    folder = case("headless")
    edit(folder, **{"score_head.weight": None})
    with pytest.raises(ModelLoadError, match=r"lacks score_head\.weight"):
        ScoreModel.from_pretrained(folder)

    folder = case("wide")
    edit(folder, **{"score_head.weight": torch.zeros(1, 31)})
    with pytest.raises(ModelLoadError, match=r"score_head\.weight is \(1, 31\), the config asks for \(1, 32\)"):
        ScoreModel.from_pretrained(folder)

    folder = case("nan")
    edit(folder, **{"model.norm.weight": torch.full((32,), float("nan"))})
    with pytest.raises(ModelLoadError, match=r"model\.norm\.weight holds NaN"):
        ScoreModel.from_pretrained(folder)

    folder = case("nan_statistics")
    edit(folder, **{"normalizer.var": torch.tensor([float("inf")])})
    with pytest.raises(ModelLoadError, match=r"normalizer\.var is NaN or infinite"):
        ScoreModel.from_pretrained(folder)

    folder = case("deeper")
    edit(folder, **{"model.layers.2.input_layernorm.weight": torch.ones(32)})
    with pytest.raises(ModelLoadError, match=r"no place for model\.layers\.2"):
        ScoreModel.from_pretrained(folder)

    folder = case("pickle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pickled weights \(pytorch_model\.bin\).*Convert"):
        ScoreModel.from_pretrained(folder)

    folder = case("weightless")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="no weights to load"):
        ScoreModel.from_pretrained(folder)

    folder = case("json")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="not valid JSON"):
        ScoreModel.from_pretrained(folder)

    with pytest.raises(ModelLoadError, match=r"is not a folder\. Give the folder"):
        ScoreModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_type": "toxicity"}, "score_type.*'reward', 'cost' or 'critic'"),
        ({"normalizer_type": "Welford"}, "normalizer_type"),
        ({"score_dim": 2}, "score_dim"),
        ({"momentum": 3.0}, "momentum"),
        ({"model_type": "no_such_family"}, "cannot load"),
        ({"do_normalize": True, "stats": None, "score_type": "reward"}, "neither the weights nor config.json"),
    ],
)
def test_bad_configs_are_refused(tmp_path, change, message, write_checkpoint):
    write_checkpoint(tmp_path, **change)
    with pytest.raises(ModelLoadError, match=message):
        ScoreModel.from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tmp_path, body):
    ScoreModel.build(LlamaConfig(**body)).save_pretrained(tmp_path, max_shard_size="20KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelLoadError, match=lost.name):
        ScoreModel.from_pretrained(tmp_path)


def test_hub_ids_go_through_huggingface_hub(monkeypatch, checkpoint):
    calls = []

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    ScoreModel.from_pretrained("PKU-Alignment/beaver-7b-unified-cost", revision="abc")
    assert calls == [("PKU-Alignment/beaver-7b-unified-cost", "abc")]


def test_an_unreachable_hub_id_is_a_clear_error(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ModelLoadError, match="neither a local folder nor a hub checkpoint"):
        ScoreModel.from_pretrained("org/model")
