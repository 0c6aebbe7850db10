"""``evaluate`` and ``calibrate`` as a user types them, on checkpoints made on the spot."""

import json

import pytest
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from critic_models.score_models import ScoreModel
from ig_plugins.cli.calibrate import calibrate
from ig_plugins.cli.evaluate import evaluate
from ig_plugins.errors import InferenceGuardError
from tests.kit.tokenizer import byte_tokenizer


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Random tiny models: a policy, a cost and a reward model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {
            "policy": LlamaForCausalLM(config),
            "cost": ScoreModel.build(config, score_type="cost"),
            "reward": ScoreModel.build(config, score_type="reward"),
        }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(2)))
    return path


def command(*arguments):
    """Runs a command as `inferenceguard` does, and gives its result; a typed error becomes exit code 2."""
    app = typer.Typer()
    app.command()(evaluate)
    app.command()(calibrate)
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, InferenceGuardError | SystemExit):
        raise result.exception
    return 2 if isinstance(result.exception, InferenceGuardError) else result.exit_code, result


def told(result):
    """All that people get to read, on one line."""
    return " ".join(f"{result.output} {result.stderr} {result.exception or ''}".split())


def parts(folder):
    return ("--model", folder / "policy", "--cost-model", folder / "cost", "--reward-model", folder / "reward")


def test_evaluate_writes_everything_and_resumes(checkpoints, prompts, tmp_path):
    train = tmp_path / "train.txt"
    train.write_text("one\ntwo\nthree\n")
    arguments = (
        "evaluate", *parts(checkpoints), "--prompts", prompts, "--judge", checkpoints / "cost", "--candidates", "4",
        "--seeds", "1", "--max-tokens", "5", "--train-prompts", train, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    code, result = command(*arguments)
    assert code == 0
    table = json.loads(result.stdout)["all prompts"]
    families = [each["family"] for each in table]
    assert families[0] == "base"
    assert {"bon-augmented", "beam-lagrangian", "args-cost", "re-control", "controlled-decoding",
            "inferenceguard", "inferenceguard-published", "inferenceguard-hedged"} <= set(families)  # fmt: skip
    guard = next(each for each in table if each["family"] == "inferenceguard")
    assert guard["safe"] == 1.0
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 2 * len(table)
    assert command(*arguments)[0] == 0
    assert (tmp_path / "out" / "results.jsonl").read_text().splitlines() == lines
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000


def test_judges_of_every_kind_of_name_and_several_of_them(checkpoints, prompts, tmp_path):
    (tmp_path / "rules.py").write_text("def long(prompts, responses):\n    return [len(r) - 3.5 for r in responses]\n")
    rules = f"{tmp_path / 'rules.py'}:long"
    arguments = (
        "evaluate", *parts(checkpoints), "--prompts", prompts, "--methods", "base,inferenceguard", "--seeds", "1",
        "--candidates", "4", "--max-tokens", "5", "--judge", rules, "--judge", "bundled:chat-cost-words",
    )  # fmt: skip
    code, result = command(*arguments, "--out", tmp_path / "out", "--json")
    assert code == 0, told(result)
    base = json.loads(result.stdout)["all prompts"][0]
    assert base["unsafe"] is not None
    assert set(base["more_unsafe"]) == {"bundled:chat-cost-words"}
    code, result = command(*arguments, "--judge-limit", "1", "--out", tmp_path / "two")
    assert code == 2
    assert "1 limits for 2 judges; give --judge-limit once for each --judge" in told(result)
    code, result = command(*arguments, "--judge", "nowhere/to:be", "--out", tmp_path / "three")
    assert code == 2
    code, result = command(*arguments, "--harmless", "kind", "--out", tmp_path / "four")
    assert code == 2
    assert "no prompt is of the group 'kind'" in told(result)


def test_calibrate_says_what_is_possible_then_certifies(checkpoints, prompts, tmp_path):
    path = tmp_path / "certificate.json"
    arguments = ("calibrate", *parts(checkpoints), "--prompts", prompts, "--judge", checkpoints / "cost",
                 "--candidates", "4", "--pilot", "2", "--max-tokens", "8", "--out", path)  # fmt: skip
    code, result = command(*arguments, "--target", "0.05")
    assert code == 2
    assert "at least 59 are needed" in told(result)
    assert not path.exists()
    # Untrained models judge at random, so the judge's limit is put where the outcome is certain.
    code, result = command(*arguments, "--target", "0.7", "--confidence", "0.9", "--judge-limit", "99")
    assert code == 0, told(result)
    assert "With 90% confidence, at most" in told(result)
    assert json.loads(path.read_text())["target"] == 0.7
    code, result = command(*arguments, "--target", "0.7", "--confidence", "0.9", "--judge-limit=-99")
    assert code == 1
    assert "Nothing is certified" in told(result)
    easy = (*arguments, "--target", "0.7", "--confidence", "0.9")
    for wrong, message in [
        (("--limits", "1,2", "--limits", "3"), "--limits hold 2, 1 numbers; give each cost model as many"),
        (("--limits", "1,2", "--limits", "3,4"), "the guard has 1 cost models; give each setting one limit"),
    ]:
        code, result = command(*easy, *wrong)
        assert code == 2
        assert message in told(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--prompts", "missing.jsonl"), "no prompt file at 'missing.jsonl'"),
        (("--methods", "magic"), "no method 'magic'"),
        (("--candidates", "many"), "--candidates is 'many'"),
        (("--limit", "0"), "greater than or equal to 1"),
        (("--column", "nope"), "no column 'nope'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(checkpoints, prompts, tmp_path, change, message):
    arguments = ("evaluate", *parts(checkpoints), "--prompts", prompts, "--out", tmp_path / "out", *change)
    code, result = command(*arguments)
    assert code == 2
    assert message in told(result)
    assert not (tmp_path / "out" / "report.html").exists()
