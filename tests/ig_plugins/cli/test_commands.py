"""The commands as a person and as a program see them: output, exit codes, one clear line on bad input."""

import json

import pytest


def test_generate_prints_a_verified_answer_with_its_ledger_as_json(run):
    code, out, _ = run("generate", "How do I clean the kettle?", "--model", "tiny-alpaca", "--seed", 1, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["blocked"] is False
    assert result["safety_state"] > 0
    assert sum(block["cost"] for block in result["blocks"] if block["cost"] is not None) == pytest.approx(
        result["cost"]
    )
    assert result["seed"] == 1


def test_the_same_seed_gives_the_same_answer_streamed_or_not(run):
    ask = ("generate", "How do I use the hacksaw on the roof?", "--seed", 3, "--no-critic")
    _, whole, _ = run(*ask)
    _, streamed, _ = run(*ask, "--stream")
    assert whole.split() == streamed.split() != []


def test_a_blocked_answer_says_why(run, tmp_path):
    (tmp_path / "rules.py").write_text("def never(prompts, responses):\n    return [1.0] * len(responses)\n")
    code, _, told = run("generate", "Hi", "--cost-model", f"{tmp_path / 'rules.py'}:never", "--max-tokens", 4)
    assert code == 0
    assert "blocked: no candidate of 16 passed the cost model" in " ".join(told.split())


def test_presets_are_shown_with_their_licences(run):
    code, out, _ = run("presets", "--json")
    found = {each["name"]: each for each in json.loads(out)}
    assert code == 0
    assert {"tiny-alpaca", "tiny-beaver", "beaver-7b-v1", "beaver-7b-v2", "beaver-7b-v3", "alpaca-7b"} <= set(found)
    for each in found.values():
        assert all(each[part]["licence"] for part in ("policy", "cost"))
    assert "PKU-Alignment/beaver-7b-v3.0" in run("presets")[1]


def test_the_demo_compares_both_sides_and_sums_up(run):
    code, out, _ = run("demo", "--model", "tiny-alpaca", "--prompts", 3, "--json")
    shown = json.loads(out)
    assert code == 0
    assert len(shown["rows"]) == 3
    for row in shown["rows"]:
        assert row["guarded"]["blocked"] or row["guarded"]["cost"] < 10
    assert shown["summary"]["guarded"]["answers"] == 3
    assert "unsafe answers" in run("demo", "--model", "tiny-alpaca", "--prompts", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "x", "--model", "nope"), "no preset"),
        (("generate", ""), "empty"),
        (("generate", "x", "--beams", "99"), "beams is 99"),
        (("generate", "x", "--block-tokens", "0"), "block_tokens is 0"),
        (("generate", "x", "--budget", "-1"), "-1"),
        (("generate", "x", "--budget", "nan"), "nan"),
        (("demo", "--model", "beaver-7b-v3"), "tiny-alpaca"),
        (("train-critic", "missing.jsonl", "--out", "x"), "missing.jsonl"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(run, arguments, says):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_bad_row_of_the_prompt_file_is_named_by_its_line(run, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "How?"}\n{"prompt": ""}\n')
    code, _, err = run("train-critic", file, "--out", tmp_path / "critic")
    assert code == 2
    assert "line 2" in err
    assert not (tmp_path / "critic").exists()


def test_a_critic_trained_by_the_command_is_accepted_and_bound_to_its_policy(run, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(
        "\n".join(f"How do I clean the {noun}?" for noun in ["kettle", "oven", "hob", "grill", "mixer", "pan"])
    )
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("How do I clean the corkscrew?\nHow do I clean the percolator?")
    out = tmp_path / "critic"
    code, printed, err = run(
        "train-critic", file, "--unseen", unseen, "--model", "tiny-beaver", "--out", out, "--responses", 2,
        "--max-tokens", 24, "--epochs", 1, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "positions" in json.loads(printed)
    assert json.loads(printed)["unseen_topics"]["held_out_prompts"] == 2
    card = (out / "README.md").read_text()
    assert "tiny-beaver" in card
    assert "inferenceguard train-critic" in card
    from ig_plugins import InferenceGuard, MismatchError

    assert InferenceGuard.from_pretrained("tiny-beaver", critic=str(out)).generate("How?", seed=1).text
    with pytest.raises(MismatchError, match=r"tiny-beaver.*tiny-alpaca"):
        InferenceGuard.from_pretrained("tiny-alpaca", critic=str(out))
