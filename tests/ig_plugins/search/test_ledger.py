"""What a result says it cost is what a plain forward of the cost model says, and the ledger adds up to it."""

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins.guard.prompt_request import encode
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)
CUMULATIVE = SafetyBudget(limit=6.0, discount=0.98)
WORST = SafetyBudget(limit=8.0, accounting="worst")
PREFILL = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Well, you see"}]


@pytest.fixture(scope="module")
def judges():
    tokenizer = byte_tokenizer()
    return {
        "first": tiny_scores(tokenizer, "cost"),
        "second": tiny_scores(tokenizer, "cost", seed=7),
        "reward": tiny_scores(tokenizer, "reward", seed=2),
    }


@pytest.fixture(scope="module", params=["one", "two"])
def guard(request, judges):
    costs = {"first": judges["first"]} if request.param == "one" else {n: judges[n] for n in ("first", "second")}
    budgets = [CUMULATIVE, WORST][: len(costs)]
    made = tiny_guard(costs=costs, budgets=budgets, reward=judges["reward"])
    return made.with_options(last_assistant="prefill")


@torch.inference_mode()
def plain(judge, guard, prompt, answer):
    """Scores (T,) of prefill and answer by one full forward."""
    encoded = encode(guard.components, prompt, guard.options)
    ids = torch.tensor([[*encoded.prompt_ids, *encoded.prefill_ids, *answer]])
    return judge.score_tokens(ids, torch.ones_like(ids))[0, len(encoded.prompt_ids) :].double()


@pytest.mark.parametrize("prompt", ["Tell me.", PREFILL], ids=["plain", "prefill"])
@pytest.mark.parametrize("seed", range(3))
def test_costs_rewards_and_states_equal_the_plain_forward(guard, judges, prompt, seed):
    result = guard.generate(prompt, seed=seed)
    assert not result.blocked
    states = []
    for name, budget in zip(result.costs, guard.options.budgets, strict=True):
        scores = plain(judges[name], guard, prompt, result.token_ids)
        if budget.accounting == "cumulative":
            steps = torch.arange(len(scores), dtype=torch.float64)
            spent = (budget.discount**steps * scores).cumsum(0)
            curve = budget.discount ** -(steps + 1) * (budget.limit - spent)  # the closed form of z
            assert (curve > 0).all()
            assert result.costs[name] == pytest.approx(float(scores.sum()), abs=1e-4)
            states.append(float(curve[-1]))
        else:
            assert (scores <= budget.limit).all()
            assert result.costs[name] == pytest.approx(float(scores.max()), abs=1e-4)
            states.append(budget.limit - float(scores.max()))
        assert result.accounting[name] == budget.accounting
    assert result.cost == max(result.costs.values())
    assert result.safety_state == pytest.approx(min(states), abs=1e-3)
    assert result.reward == pytest.approx(float(plain(judges["reward"], guard, prompt, result.token_ids)[-1]), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_ledger_adds_up(judges, seed):
    guard = tiny_guard(costs={"first": judges["first"]}, budgets=[CUMULATIVE], reward=judges["reward"])
    result = guard.generate("Tell me.", seed=seed, tries=3)
    assert sum(block.cost for block in result.blocks) == pytest.approx(result.cost, abs=1e-9)
    assert result.blocks[-1].safety_state == result.safety_state
    assert [block.index for block in result.blocks] == list(range(len(result.blocks)))
    assert all(0 < block.safe <= guard.search.candidates for block in result.blocks)
    assert all(block.candidates == guard.search.candidates * block.tries for block in result.blocks)
    assert sum(block.tokens for block in result.blocks) == result.usage.candidate_tokens


def test_usage_counts(judges):
    guard = tiny_guard(costs={"first": judges["first"]}, budgets=[CUMULATIVE], reward=None)
    result = guard.generate("Tell me.")
    usage = result.usage
    assert usage.prompt_tokens == guard.count_tokens("Tell me.")
    assert usage.completion_tokens == len(result.token_ids) == 20
    # each token is read once, those of half a character at the end of a lane not at all
    most = usage.prompt_tokens + usage.candidate_tokens
    assert most - 3 * guard.search.candidates <= usage.judge_tokens <= most
    assert usage.judge_calls == 1 + len(result.blocks)
    assert result.seconds > 0
    assert result.report()["usage"]["prompt_tokens"] == usage.prompt_tokens


def test_the_prefill_spends_budget(judges):
    guard = tiny_guard(costs={"first": judges["first"]}, budgets=[CUMULATIVE], reward=None)
    guard = guard.with_options(last_assistant="prefill")
    spent = float(plain(judges["first"], guard, PREFILL, [])[:].sum())
    result = guard.generate(PREFILL)
    ledger = sum(block.cost for block in result.blocks)
    assert result.cost == pytest.approx(ledger + spent, abs=1e-4)
    assert not result.text.startswith("Well")
    greedy = SafetyBudget(limit=0.01, discount=1.0)
    costly = tiny_guard(costs={"c": tiny_scores(byte_tokenizer(), "cost", bias=5.0, scale=0.1)}, budgets=[greedy])
    assert costly.generate(PREFILL, last_assistant="prefill").blocked
