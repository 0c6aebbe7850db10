"""The search itself, with every candidate and exact values, is the optimum of the constrained problem."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critic_models.safety import SafetyBudget
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.components import Components
from tests.ig_plugins.theory.mdp import TokenTree, feasible, random_tree, solve
from tests.kit.contexts import scripted_context
from tests.kit.scripted import ScriptedTokenJudge
from tests.kit.tokenizer import byte_tokenizer

LETTERS = "abc"
FIRST = byte_tokenizer().encode("a")[0]
HOPELESS = -1e6
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**9)
budgets = st.sampled_from(
    [
        SafetyBudget(limit=2.0, discount=1.0),
        SafetyBudget(limit=1.0, discount=0.9),
        SafetyBudget(limit=1.0, accounting="worst", discount=1.0),
    ]
)


def prefix_of(text):
    return tuple(LETTERS.index(letter) for letter in text)


def as_text(prefix):
    return "".join(LETTERS[token] for token in prefix)


def sum_or_worst(tree: TokenTree, budget: SafetyBudget, prefix):
    """What a judge of texts says of a response so far, so that its steps are the tree's costs."""
    costs = [tree.cost[prefix[:t]] for t in range(1, len(prefix) + 1)]
    return sum(costs) if budget.accounting == "cumulative" else (costs[-1] if costs else -math.inf)


def exact_value(tree: TokenTree, budget: SafetyBudget, prefix):
    """The best reward that can still be had without violating; hopeless if none."""
    rests = itertools.product(range(tree.alphabet), repeat=tree.depth - len(prefix))
    leaves = [leaf for rest in rests if not tree.violates(leaf := (*prefix, *rest), budget)]
    return max((-tree.task[leaf] for leaf in leaves), default=HOPELESS)


def guard_over(tree: TokenTree, budget: SafetyBudget, *, block, lanes, critic=False, value=True) -> InferenceGuard:
    """A guard whose policy may say every leaf of the tree, and whose judges know its costs and values."""

    def reward(prompt, text):
        prefix = prefix_of(text)
        if len(prefix) == tree.depth:
            return -tree.task[prefix]
        return exact_value(tree, budget, prefix) if value else 0.0

    context = scripted_context(
        {as_text(leaf): tree.alphabet**-tree.depth for leaf in tree.leaves()},
        cost=lambda prompt, text: sum_or_worst(tree, budget, prefix_of(text)) if text else 0.0,
        reward=reward,
        budget=budget,
        search={"candidates": lanes, "beams": 1, "block_tokens": block, "max_new_tokens": tree.depth + 1, "seed": 0},
        hidden=lambda prompt, response: foreseen(tree, budget, response) if critic else [0.0] * 8,
    )
    parts = context.guard.components
    if not critic:
        return context.guard
    # With a critic, judges read whole finalists; only one that scores tokens sees the steps in between.
    judge = ScriptedTokenJudge(
        parts.policy.tokenizer,
        lambda prompt, response: (
            tree.cost.get(letters(response), 0.0) if letters(response) != letters(response[:-1]) else 0.0
        ),
        accounting=budget.accounting,
    )
    whole = Components(
        policy=parts.policy,
        prompt_format=parts.prompt_format,
        costs={"cost": judge},
        budgets=parts.budgets,
        reward=parts.reward,
        critic=ExactCritic(),
        names=parts.names,
        judge_trees={id(judge): judge.tree},
    )
    return InferenceGuard(whole, context.guard.options)


def foreseen(tree, budget, response):
    """Hidden states that hold what an exact critic would say: log-odds of a safe end, and the discounted value."""
    value = exact_value(tree, budget, letters(response))
    length = tree.depth + 1  # the stop token included
    gamma = budget.discount if budget.accounting == "cumulative" else 1.0
    return [5.0 if value > HOPELESS else -5.0, gamma**length * value, *[0.0] * 6]


def letters(response):
    """The tree's steps among token ids."""
    return tuple(token - FIRST for token in response if FIRST <= token < FIRST + len(LETTERS))


class ExactCritic(torch.nn.Module):
    """Reads what the hidden state holds."""

    value_error = 0.0
    usual_value = -1.0

    def forward(self, hidden, state, mean_hidden=None):
        return hidden[..., 0], hidden[..., 1]


def optimum(tree, budget, charge="every"):
    penalty = 2 * tree.bound(budget) / budget.discount**tree.depth + 1.0
    return solve(tree, budget, penalty=penalty, charge=charge)


def check(tree, budget, result, *, charge="every"):
    best = optimum(tree, budget, charge)
    if not feasible(tree, budget):
        assert best.violation == 1.0
        assert result.blocked
        return
    leaf = prefix_of(result.text)
    assert not result.blocked
    assert not tree.violates(leaf, budget)
    assert tree.task_total(leaf, budget) == pytest.approx(best.value, abs=1e-9)


@few
@given(seeds, st.sampled_from([(2, 2), (2, 3), (3, 2), (3, 3), (4, 2)]), budgets)
def test_token_by_token_with_exact_values(seed, shape, budget):
    """One beam is enough when values are exact: 64 lanes draw every one of at most three tokens."""
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1])
    result = guard_over(tree, budget, block=1, lanes=64).generate("p")
    check(tree, budget, result)


@few
@given(seeds, st.sampled_from([(2, 2), (2, 3), (3, 2), (4, 2)]), budgets)
def test_with_an_exact_critic(seed, shape, budget):
    """The critic ranks, the cost model verifies: exact on both sides, so the optimum."""
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1])
    result = guard_over(tree, budget, block=1, lanes=64, critic=True, value=False).generate("p")
    check(tree, budget, result)


@few
@given(seeds, st.sampled_from([(2, 2), (3, 2), (2, 3)]))
def test_in_one_block_every_leaf_is_a_candidate(seed, shape):
    """Without foresight, but with all whole answers before it, the search compares them all."""
    budget = SafetyBudget(limit=2.0, discount=1.0, reading="terminal")
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1])
    result = guard_over(tree, budget, block=tree.depth + 1, lanes=256, value=False).generate("p")
    check(tree, budget, result, charge="end")


def test_without_foresight_one_beam_can_miss_the_optimum():
    """What exactness buys: partial texts scored by their own reward lead a single beam astray."""
    budget = SafetyBudget(limit=10.0, discount=1.0)
    missed = 0
    for seed in range(12):
        tree = random_tree(seed, depth=3, alphabet=2)
        result = guard_over(tree, budget, block=1, lanes=32, value=False).generate("p")
        missed += tree.task_total(prefix_of(result.text), budget) > optimum(tree, budget).value + 1e-9
    assert missed > 0
