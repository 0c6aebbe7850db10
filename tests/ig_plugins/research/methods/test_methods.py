"""Every method does what its name says, seen on a policy whose answers are known."""

from collections import Counter

import pytest
import torch

from ig_plugins.errors import ConfigurationError, UnsupportedModelError
from ig_plugins.research.methods import method, methods
from ig_plugins.research.methods.blocks import BlockMethod
from ig_plugins.research.methods.candidate_scorer import CandidateScorer
from ig_plugins.search import Capacity
from tests.ig_plugins.research.methods.conftest import ANSWERS, REWARDS
from tests.kit.contexts import scripted_context


def ask(context, name, prompt="p", seed=0):
    return method(name).build(context).answer([prompt], seeds=[seed])[0]


def test_the_registry_knows_the_papers_methods():
    known = methods()
    assert next(iter(known)) == "base"
    for name in ("bon-reward", "bon-lagrangian", "bon-augmented", "beam-reward", "beam-lagrangian", "beam-augmented",
                 "args-reward", "args-lagrangian", "args-cost", "re-control", "re-control-lagrangian",
                 "controlled-decoding", "inferenceguard", "inferenceguard-critic", "inferenceguard-published",
                 "inferenceguard-hedged"):  # fmt: skip
        assert known[name].summary
    with pytest.raises(ConfigurationError, match="no method 'magic'; choose from base"):
        method("magic")


def test_base_draws_from_the_policy(careless):
    texts = Counter(ask(careless(), "base", seed=seed).text for seed in range(200))
    assert set(texts) == set(ANSWERS)
    for answer, probability in ANSWERS.items():
        assert abs(texts[answer] / 200 - probability) < 0.12


@pytest.mark.parametrize("name", ["bon", "beam"])
@pytest.mark.parametrize(
    ("rule", "answer"), [("reward", "bad but great"), ("augmented", "good and fine"), ("lagrangian", "good and fine")]
)
def test_the_rules_choose_what_they_promise(careless, name, rule, answer):
    context = careless(search={"candidates": 64, "beams": 16, "block_tokens": 5})
    assert ask(context, f"{name}-{rule}").text == answer


def test_a_weak_multiplier_lets_reward_outbid_cost(careless):
    """The Lagrangian trades: with a small λ the unsafe answer wins. The augmented rule cannot be outbid."""
    context = careless(search={"candidates": 64}, multiplier=0.1)
    assert ask(context, "bon-lagrangian").text == "bad but great"
    assert ask(context, "bon-augmented").text == "good and fine"


@pytest.mark.parametrize("seed", range(5))
def test_best_of_n_is_the_best_of_the_n_answers_it_sampled(careless, seed):
    context = careless(search={"candidates": 6})
    sampled = [
        BlockMethod(context, lambda lanes, pick=pick: [float(i == pick) for i in range(len(lanes))], 6, 1, 32)
        .answer(["p"], seeds=[seed])[0]
        .text
        for pick in range(6)
    ]
    assert sampled[0] == ask(context, "base", seed=seed).text, "the first lane is the base answer of the seed"
    assert ask(context, "bon-reward", seed=seed).text == max(sampled, key=REWARDS.get)


def test_guard_is_safe_where_published_and_augmented_are_not():
    """Nothing but unsafe answers: only a verifier abstains."""
    context = scripted_context({"bad": 0.5, "very bad": 0.5}, cost=lambda p, r: 1.0 if "bad" in r else -1.0,
                           reward=lambda p, r: len(r))  # fmt: skip
    guarded = ask(context, "inferenceguard")
    assert guarded.blocked
    assert "bad" not in guarded.text
    for name in ("inferenceguard-published", "bon-augmented", "beam-augmented"):
        answer = ask(context, name)
        assert not answer.blocked
        assert "bad" in answer.text


@pytest.mark.parametrize("name", ["inferenceguard", "inferenceguard-published", "inferenceguard-hedged"])
def test_the_guards_find_the_helpful_safe_answer(careless, name):
    assert ask(careless(search={"candidates": 64, "beams": 16}), name).text == "good and fine"


def test_published_tries_again_with_other_tokens():
    """All candidates of the first try are unsafe; the retry penalty is what lets a rare safe token be drawn."""
    answers = {"x": 0.9999, "s": 0.0001}
    context = scripted_context(answers, cost=lambda p, r: 1.0 if "x" in r else -1.0, reward=lambda p, r: 0.0,
                           search={"candidates": 4, "beams": 1, "tries": 2, "retry_penalty": 20.0})  # fmt: skip
    assert ask(context, "inferenceguard-published").text == "s"
    once = context.guard.with_options(tries=1)
    assert ask(type(context)(once), "inferenceguard-published").text == "x"


def by_hand(context, w, score):
    """ARGS, written down naively on the scripted policy."""
    tokenizer, tree = context.policy.tokenizer, context.policy.tree
    prompt, response = tuple(context.request("p", seed=0).prompt_ids), ()
    while len(response) < context.search.max_new_tokens:
        logits = tree.following(prompt, response)
        best = max(
            logits.topk(20).indices.tolist(),
            key=lambda t: logits[t].item() + w * score(tokenizer.decode([*response, t], skip_special_tokens=True)),
        )
        response = (*response, best)
        if best == tokenizer.eos_token_id:
            break
    return tokenizer.decode(response, skip_special_tokens=True)


@pytest.mark.parametrize("w", [0.0, 0.2, 2.5])
@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("args-reward", lambda r: REWARDS.get(r, 0.1 * len(r))),
        ("args-cost", lambda r: -1.0 if "bad" in r else 1.0),
        ("args-lagrangian", lambda r: REWARDS.get(r, 0.1 * len(r)) - 5 * (1.0 if "bad" in r else -1.0)),
    ],
)
def test_args_is_the_greedy_rule_it_is_described_by(careless, name, score, w):
    context = careless(weight=w)
    assert ask(context, name).text == by_hand(context, w, score)
    assert ask(context, name, seed=7).text == ask(context, name).text, "greedy: the seed plays no part"


def test_candidates_ended_by_length_are_answers(careless):
    context = careless(search={"max_new_tokens": 4, "block_tokens": 2})
    for name in ("base", "bon-reward", "beam-reward", "args-reward"):
        answer = ask(context, name)
        assert not answer.finished or answer.text == "no"
        assert len(answer.token_ids) <= 4


def test_the_same_seed_gives_the_same_answer(tiny):
    for name in ("base", "bon-augmented", "beam-lagrangian", "controlled-decoding", "re-control"):
        one, two, other = (ask(tiny, name, seed=seed).token_ids for seed in (1, 1, 2))
        assert one == two
        assert one != other


@pytest.mark.parametrize("name", [name for name, entry in methods().items() if not entry.critic])
def test_an_answer_does_not_depend_on_the_prompts_it_is_asked_with(tiny, name):
    built, prompts = method(name).build(tiny), ["why", "a longer question", "why", "how"]
    together = built.answer(prompts, seeds=[1, 2, 3, 4])
    alone = [built.answer([prompt], seeds=[seed])[0] for prompt, seed in zip(prompts, [1, 2, 3, 4], strict=True)]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.candidate_tokens for answer in together] == [answer.candidate_tokens for answer in alone]
    assert [answer.judge_calls for answer in together] == [answer.judge_calls for answer in alone]


def test_what_cannot_run_says_why(careless):
    context = careless()
    with pytest.raises(ConfigurationError, match="no critic; train one"):
        ask(context, "inferenceguard-critic")
    with pytest.raises(UnsupportedModelError, match="LM head"):
        ask(context, "re-control")
    with pytest.raises(ConfigurationError, match="at least 2 training prompts"):
        ask(context, "controlled-decoding")
    silent = scripted_context(ANSWERS, cost=lambda p, r: 0.0, reward=None)
    with pytest.raises(ConfigurationError, match="ranks by reward"):
        ask(silent, "bon-reward")


def test_the_panel_on_trees_reads_what_a_plain_forward_reads(tiny):
    """Costs block by block on the tree, against one full forward of the score model; then the closed form of z."""
    request = tiny.request("why", seed=0)
    ids = torch.randint(5, 200, (7,), generator=torch.Generator().manual_seed(3))
    judge, budget = tiny.guard.components.costs["cost"], tiny.budgets[0]
    whole = torch.tensor([[*request.judge_ids, *ids.tolist()]])
    costs = judge.score_tokens(whole, torch.ones_like(whole))[0, len(request.judge_ids) :]
    spent = sum(budget.discount**k * c for k, c in enumerate(costs.tolist()))

    panel = CandidateScorer(tiny, capacity=Capacity(lanes=1, block=4, max_new=12))
    panel.add_rows([request])
    one = torch.zeros(1, 1, dtype=torch.long)
    for block in (ids[:3], ids[3:]):
        length = torch.tensor([[len(block)]])
        finished = torch.tensor([[False]])
        panel.judge(one, block.view(1, 1, -1), length, finished)
        panel.advance(one)
    ((candidate,),) = panel.beams
    assert candidate.spent == pytest.approx(spent, abs=1e-4)
    assert candidate.states[0] == pytest.approx((budget.limit - spent) / budget.discount**7, abs=1e-4)
    reward = tiny.guard.components.reward
    assert candidate.reward == pytest.approx(reward.score_tokens(whole, torch.ones_like(whole))[0, -1].item(), abs=1e-4)
