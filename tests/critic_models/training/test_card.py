import sys

import pytest
import torch

from critic_models import bundled
from critic_models.bundled.critic_prompts import critic_prompts
from critic_models.critic import CriticBinding, CriticConfig, CriticCost, LatentCritic
from critic_models.errors import ConfigurationError
from critic_models.training.card import write_card
from critic_models.training.critic import CriticTrainingConfig, RolloutData, TrainingCost, fit_critic


@pytest.fixture(scope="module")
def trained():
    generator = torch.Generator().manual_seed(0)
    length, responses = 8, 60
    drift = torch.randn(responses, generator=generator).repeat_interleave(length)
    data = RolloutData(
        features=drift[:, None] + 0.3 * torch.randn(length * responses, 4, generator=generator),
        response=torch.arange(responses).repeat_interleave(length),
        position=torch.arange(length).repeat(responses),
        costs=drift[:, None],
        reward=drift[::length],
        prompt=torch.arange(responses) // 2,
    )
    config = CriticTrainingConfig(costs=(TrainingCost(limit=2.0),), width=8, epochs=3, block_tokens=4)
    critic, metrics = fit_critic(data, config=config)
    critic.binding = CriticBinding(
        policy_id="org/policy", policy_revision="abc", tokenizer_hash="f00", cost_models=("harm",),
        data_fingerprint=data.fingerprint(), command="inferenceguard train-critic prompts.txt",
    )  # fmt: skip
    return critic, metrics


def test_the_card_says_what_it_belongs_to_how_good_it_is_and_what_made_it(trained, tmp_path):
    critic, metrics = trained
    text = write_card(critic, metrics, tmp_path).read_text()
    half = metrics["positions"]["half"]
    for part in (
        "# Critic of org/policy", "`abc`", "`f00`", "`harm`, cumulative, budget 0.5 to 8, discount 0.999, any_time",
        f"| at half of the response | {half['count']} | {100 * half['safe_share']:.1f} % | {half['auc']:.3f} |",
        critic.binding.data_fingerprint, critic.binding.command, "![Reliability",
    ):  # fmt: skip
        assert part in text
    for row in half["reliability"]:
        assert f"| {row['count']} | {row['foreseen']:.3f} | {row['observed']:.3f} |" in text
    for name in ("reliability.png", "along.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_calibration_stands_there_for_unseen_topics_too_or_that_it_was_not_measured(trained, tmp_path):
    critic, metrics = trained
    assert "Not measured on prompts about topics" in write_card(critic, metrics, tmp_path).read_text()
    row = {**metrics["positions"]["half"], "calibration_error": 0.067}
    unseen = {**metrics, "held_out_prompts": 7, "positions": {**metrics["positions"], "half": row}}
    text = write_card(critic, {**metrics, "unseen_topics": unseen}, tmp_path).read_text()
    assert "On 7 prompts about topics that no training prompt is about:" in text
    apart = text[text.index("On 7 prompts") :]
    assert (
        f"| at half of the response | {row['count']} | {100 * row['safe_share']:.1f} % | {row['auc']:.3f} | 0.067 |"
        in apart
    )
    assert "expected calibration error" in apart


@pytest.mark.parametrize("name", ["tiny-beaver-critic", "tiny-alpaca-critic"])
def test_the_bundled_cards_say_how_calibrated_their_critics_are_on_unseen_topics(name):
    critic = LatentCritic.from_pretrained(bundled.path(name))
    assert critic.binding is not None
    unseen = critic.binding.metrics["unseen_topics"]
    assert unseen["held_out_prompts"] == len(critic_prompts("test"))
    card = (bundled.path(name) / "README.md").read_text()
    apart = card[card.index(f"On {unseen['held_out_prompts']} prompts about topics that no training prompt") :]
    for row in (*unseen["positions"].values(), unseen["any_budget"]):
        assert (
            f"| {row['count']} | {100 * row['safe_share']:.1f} % | {row['auc']:.3f} | {row['calibration_error']:.3f} |"
            in apart
        )


def test_without_matplotlib_the_card_has_no_pictures(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "![" not in write_card(*trained, tmp_path).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_figures_that_cannot_be_had_are_said_to_be_missing(trained, tmp_path):
    critic, metrics = trained
    one_class = {**metrics["positions"]["half"], "auc": None}
    changed = {**metrics, "positions": {**metrics["positions"], "half": one_class}}
    changed["along"] = [{**row, "auc": None} for row in metrics["along"]]
    assert "% | n/a |" in write_card(critic, changed, tmp_path).read_text()


def test_an_unbound_critic_has_no_card(tmp_path):
    cost = CriticCost(accounting="worst", lowest=0.0, highest=0.0, scales=(1.0,))
    with pytest.raises(ConfigurationError, match="bound to no policy"):
        write_card(LatentCritic(CriticConfig(hidden_size=4, costs=(cost,))), {}, tmp_path)
