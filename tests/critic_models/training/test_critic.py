import json
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from critic_models.critic import CriticBinding, LatentCritic
from critic_models.errors import ConfigurationError
from critic_models.training.critic import CriticTrainingConfig, RolloutData, TrainingCost, fit_critic, measure_critic


def make_rollouts(*, prompts=80, per_prompt=4, hidden=12, seed=0, accounting="cumulative"):
    """Random walks whose drift is fixed by a latent that the hidden state shows more clearly token by token."""
    generator = torch.Generator().manual_seed(seed)
    rows = {name: [] for name in ("features", "response", "position", "costs")}
    reward, prompt = [], []
    readout = torch.randn(3, hidden, generator=generator)
    for index in range(prompts * per_prompt):
        length = int(torch.randint(6, 18, (), generator=generator))
        drift = torch.randn((), generator=generator)
        steps = 0.5 * drift + 0.3 * torch.randn(length, generator=generator)
        score = steps.cumsum(0)
        noise = torch.randn(length, generator=generator) * 0.5 / torch.arange(1, length + 1).sqrt()
        latent = torch.stack([drift + noise, score, torch.arange(length) / 18], dim=1)
        rows["features"].append(latent @ readout + 0.05 * torch.randn(length, hidden, generator=generator))
        rows["response"].append(torch.full((length,), index))
        rows["position"].append(torch.arange(length))
        rows["costs"].append((steps if accounting == "cumulative" else score).unsqueeze(1))
        reward.append(2 * drift - 5)
        prompt.append(index // per_prompt)
    return RolloutData(
        **{name: torch.cat(parts) for name, parts in rows.items()},
        reward=torch.stack(reward), prompt=torch.tensor(prompt),
    )  # fmt: skip


CONFIG = CriticTrainingConfig(
    costs=(TrainingCost(limit=2.0, discount=0.99, budget_range=(0.5, 8.0)),),
    width=32, epochs=15, batch_size=128, block_tokens=4, seed=3, learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    data = make_rollouts()
    return data, *fit_critic(data, config=CONFIG)


def test_it_learns_safety_and_value_on_prompts_it_never_saw(trained):
    _, critic, metrics = trained
    places = metrics["positions"]
    assert places["first_block"]["auc"] > 0.75
    assert places["half"]["auc"] > 0.85
    assert places["end"]["auc"] > 0.9
    assert metrics["any_budget"]["auc"] > 0.9
    assert metrics["any_budget"]["calibration_error"] < 0.1
    assert places["half"]["value_r2"] > 0.6
    assert metrics["held_out_prompts"] == 12
    assert critic.value_error == pytest.approx(metrics["value_error"])
    json.dumps(metrics, allow_nan=False)


def test_one_critic_serves_every_budget(trained):
    """Calibrated at a tight and at a generous budget, not only at the usual one."""
    _, critic, _ = trained
    fresh = make_rollouts(seed=0, prompts=160)  # the same readout; later prompts are new
    new = fresh.prompt[fresh.response] >= 80
    start = (fresh.position == 5) & new
    for limit in (0.8, 2.0, 6.0):
        need = _need(fresh, 0.99)[fresh.response[start]]
        with torch.no_grad():
            probability = critic(
                fresh.features[start], torch.full((int(start.sum()), 1), limit), fresh.mean_hidden()[start]
            )[0].sigmoid()
        assert abs(float(probability.mean()) - float((need < limit).double().mean())) < 0.12


def _need(data, discount):
    spent = torch.zeros(len(data.reward), dtype=torch.float64)
    peak = torch.full_like(spent, -torch.inf)
    for row in range(len(data.features)):
        index = data.response[row]
        spent[index] += data.costs[row, 0] * discount ** int(data.position[row])
        peak[index] = torch.maximum(peak[index], spent[index])
    return peak


def test_the_same_seed_gives_the_same_critic(trained):
    data, critic, _ = trained
    torch.rand(5)  # the global generator plays no part
    again, _ = fit_critic(data, config=CONFIG)
    assert all(
        torch.equal(a, b) for a, b in zip(critic.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other, _ = fit_critic(data, config=CONFIG.model_copy(update={"seed": 4, "epochs": 1}))
    assert not torch.equal(other.enter.weight, critic.enter.weight)


def test_a_trained_critic_is_saved_and_loaded(trained, tmp_path):
    data, critic, metrics = trained
    critic.binding = CriticBinding(
        policy_id="p", tokenizer_hash="t", metrics=metrics, data_fingerprint=data.fingerprint()
    )
    critic.save_pretrained(tmp_path)
    again = LatentCritic.from_pretrained(tmp_path)
    assert again.binding == critic.binding
    state = torch.full((8, 1), 2.0)
    seen = data.features[:8], state, data.mean_hidden()[:8]
    assert torch.equal(again(*seen)[0], critic(*seen)[0])


def test_the_mean_hidden_state_is_worth_reading():
    """The reward is that of the first token, which the later states forget."""
    data = make_rollouts()
    first = data.features[data.position == 0]
    forgetful = torch.where((data.position == 0).unsqueeze(1), data.features, torch.randn(data.features.shape))
    data = replace(data, features=forgetful, reward=first[:, 0].clone())
    r2 = {}
    for recalls in (False, True):
        _, metrics = fit_critic(data, config=CONFIG.model_copy(update={"recalls": recalls}))
        r2[recalls] = metrics["positions"]["half"]["value_r2"]
    assert r2[True] > r2[False] + 0.2


def test_progress_is_told_and_training_stops_early():
    seen = []
    config = CONFIG.model_copy(update={"epochs": 60, "patience": 2, "learning_rate": 0.02})
    _, metrics = fit_critic(make_rollouts(prompts=20), config=config, on_epoch=lambda *args: seen.append(args))
    assert [done for done, _, _ in seen] == list(range(1, metrics["epochs"] + 1))
    assert metrics["epochs"] < 60
    losses = [loss for _, _, loss in seen]
    assert losses.index(min(losses)) == len(losses) - 3


def test_worst_case_accounting_and_two_costs_at_once():
    data = make_rollouts(accounting="worst")
    worst = TrainingCost(accounting="worst", limit=1.0)
    _, alone = fit_critic(data, config=CONFIG.model_copy(update={"costs": (worst,)}))
    assert alone["positions"]["half"]["auc"] > 0.85
    both = replace(data, costs=torch.cat([data.costs, make_rollouts().costs], dim=1))
    critic, metrics = fit_critic(both, config=CONFIG.model_copy(update={"costs": (worst, *CONFIG.costs)}))
    assert critic.config.n_costs == 2
    assert metrics["positions"]["half"]["safe_share"] <= alone["positions"]["half"]["safe_share"]
    assert metrics["positions"]["half"]["auc"] > 0.85


def test_figures_on_unseen_topics_stand_apart_and_nothing_is_learned_from_them(trained):
    *_, known = trained
    unseen = make_rollouts(prompts=9, seed=3)
    critic, metrics = fit_critic(make_rollouts(), config=CONFIG, unseen=unseen)
    apart = metrics.pop("unseen_topics")
    assert {**metrics, "seconds": 0} == {**known, "seconds": 0}
    assert apart["held_out_prompts"] == 9
    assert apart["positions"]["end"]["count"] == len(unseen.reward)
    assert 0 <= apart["any_budget"]["calibration_error"] < 1
    assert measure_critic(critic, unseen, config=CONFIG) == apart


def test_every_cost_is_learned_in_its_own_reading():
    data = make_rollouts()
    data = replace(data, costs=data.costs.clone())
    ends = torch.cat([data.position[1:] == 0, torch.tensor([True])])
    data.costs[ends] -= 100.0  # all that was spent comes back at the last token
    terminal = TrainingCost(limit=CONFIG.costs[0].limit, discount=1.0, reading="terminal")
    anytime = terminal.model_copy(update={"reading": "any_time"})
    shares = {}
    for costs in ((terminal,), (anytime,), (terminal, anytime)):
        both = replace(data, costs=data.costs.repeat(1, len(costs)))
        critic, metrics = fit_critic(both, config=CONFIG.model_copy(update={"costs": costs, "epochs": 1}))
        assert [cost.reading for cost in critic.config.costs] == [cost.reading for cost in costs]
        shares[costs] = metrics["positions"]["half"]["safe_share"]
    assert shares[(terminal,)] == 1.0
    assert shares[(terminal, anytime)] == shares[(anytime,)] < 1.0
    assert CriticTrainingConfig(costs=(anytime,), reading="terminal").costs == (terminal,)


def test_safe_by_every_sample_gives_no_auc_but_a_critic():
    data = make_rollouts(prompts=20)
    critic, metrics = fit_critic(
        replace(data, costs=-data.costs.abs() - 1), config=CONFIG.model_copy(update={"epochs": 5})
    )
    assert metrics["positions"]["end"]["auc"] is None
    with torch.no_grad():
        assert critic(data.features[:5], torch.full((5, 1), 2.0), data.mean_hidden()[:5])[0].sigmoid().min() > 0.9


def test_bad_input_is_refused():
    data = make_rollouts(prompts=2)
    with pytest.raises(ConfigurationError, match="2 prompts cannot be split"):
        fit_critic(data, config=CONFIG)
    with pytest.raises(ConfigurationError, match="rollouts have 1 costs, the config 2"):
        fit_critic(data, config=CONFIG.model_copy(update={"costs": CONFIG.costs * 2}))
    for wrong, message in (
        ({"limit": 0.0}, "must be above 0"),
        ({"limit": 10.0, "budget_range": (1.0, 5.0)}, "must hold the limit"),
        ({"accounting": "worst", "limit": 0.0, "budget_range": (0.0, 1.0)}, "one limit"),
    ):
        with pytest.raises(ValidationError, match=message):
            TrainingCost(**wrong)
