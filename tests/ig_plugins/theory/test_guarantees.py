"""What can be proved of the reshaped problem (method.md section 1), checked on processes that can be enumerated."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from critic_models.safety import SafetyBudget
from tests.ig_plugins.theory.mdp import TokenTree, feasible, random_tree, solve

seeds = st.integers(0, 10**9)
shapes = st.sampled_from([(1, 4), (2, 3), (3, 2), (3, 3), (4, 2), (5, 2)])
tasks = st.sampled_from(["end", "steps"])
# (budget, where the penalty is charged): at every unsafe step the guarantee is any-time; at the end it is terminal.
budgets = st.sampled_from(
    [
        (SafetyBudget(limit=2.0, discount=1.0), "every"),
        (SafetyBudget(limit=1.0, discount=0.9), "every"),
        (SafetyBudget(limit=3.0, discount=0.7), "every"),
        (SafetyBudget(limit=2.0, discount=1.0, reading="terminal"), "end"),
        (SafetyBudget(limit=1.5, discount=0.8, reading="terminal"), "end"),
        (SafetyBudget(limit=1.0, discount=0.9, accounting="worst"), "every"),
        (SafetyBudget(limit=0.0, discount=1.0, accounting="worst", reading="terminal"), "end"),
    ]
)
few = settings(max_examples=60, deadline=None)


def by_enumeration(tree, budget, penalty, charge):
    prices = {
        leaf: sum(tree.price(leaf[:t], budget, penalty, charge) for t in range(1, tree.depth + 1))
        for leaf in tree.leaves()
    }
    return min(prices.values())


@few
@given(seeds, shapes, tasks, budgets, st.floats(0.1, 50))
def test_dynamic_programming_is_exhaustive_search(seed, shape, task, setting, penalty):
    budget, charge = setting
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1], task=task)
    solution = solve(tree, budget, penalty=penalty, charge=charge)
    assert solution.value == pytest.approx(by_enumeration(tree, budget, penalty, charge), abs=1e-9)


@few
@given(seeds, shapes, tasks, budgets, st.floats(1e-6, 10))
def test_above_the_bound_no_minimiser_violates(seed, shape, task, setting, excess):
    """n > 2C/γ^T: the optimum never violates, and it is the best of all safe trajectories."""
    budget, charge = setting
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1], task=task)
    assume(feasible(tree, budget))
    penalty = 2 * tree.bound(budget) / budget.discount**tree.depth + excess
    solution = solve(tree, budget, penalty=penalty, charge=charge)
    assert solution.violation == 0.0
    best = min(tree.task_total(leaf, budget) for leaf in tree.leaves() if not tree.violates(leaf, budget))
    assert solution.value == pytest.approx(best, abs=1e-9)
    assert tree.task_total(solution.path(tree.depth), budget) == pytest.approx(best, abs=1e-9)


@few
@given(seeds, shapes, tasks, budgets)
def test_infeasible_instances_are_recognised(seed, shape, task, setting):
    """Above the bound the value tells: beyond C, and only there, no safe trajectory exists."""
    budget, charge = setting
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1], task=task)
    C = tree.bound(budget)
    penalty = 2 * C / budget.discount**tree.depth + 1.0
    solution = solve(tree, budget, penalty=penalty, charge=charge)
    exists = any(not tree.violates(leaf, budget) for leaf in tree.leaves())
    assert feasible(tree, budget) == exists
    assert (solution.violation == 0.0) == exists
    assert (solution.value <= C + 1e-9) == exists


def test_a_penalty_may_stand_where_a_task_cost_stood():
    """A trajectory that is unsafe where it would have paid costs less than its own task costs beside the penalty."""
    budget = SafetyBudget(limit=2.0, discount=1.0)
    tree = random_tree(180694, depth=5, alphabet=2, task="steps")
    assert not feasible(tree, budget)
    assert solve(tree, budget, penalty=2 * tree.bound(budget) + 1.0).value > tree.bound(budget)


def test_both_kinds_of_instance_are_drawn():
    """The two tests above mean something: random trees are often feasible and often not."""
    budget = SafetyBudget(limit=1.0, discount=0.9)
    kinds = [feasible(random_tree(seed, depth=2, alphabet=2), budget) for seed in range(100)]
    assert 10 <= sum(kinds) <= 90


def sharp_instance(depth: int, C: float, discount: float) -> TokenTree:
    """Token 0 pays +C and is safe; token 1 pays −C, then breaks the budget at the very last step."""
    tree = TokenTree(depth, 2, cost={}, task={(0,): C / discount, (1,): -C / discount})
    stack = [(0,), (1,)]
    while stack:
        prefix = stack.pop()
        last = len(prefix) == depth
        tree.cost[prefix] = 1e6 if last and prefix[0] == 1 else 0.0
        stack += [] if last else [(*prefix, 0), (*prefix, 1)]
    return tree


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_bound_is_sharp(depth, discount):
    """Just below 2C/γ^T the optimum violates, just above it does not."""
    budget, C = SafetyBudget(limit=10.0, discount=discount), 3.0
    tree = sharp_instance(depth, C, discount)
    assert tree.bound(budget) == pytest.approx(C)
    bound = 2 * C / discount**depth
    assert solve(tree, budget, penalty=bound * 0.999).violation == 1.0
    assert solve(tree, budget, penalty=bound * 1.001).violation == 0.0


@few
@given(
    seeds,
    st.sampled_from([(1, 3), (2, 2), (3, 2)]),
    st.sampled_from([(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5)]),
    tasks,
    budgets,
    st.floats(0.05, 3.0),
)
def test_a_stochastic_world_violates_at_most_so_often(seed, shape, odds, task, setting, share):
    """Any minimiser violates with probability ≤ 2C/(γ^T n), where a policy that never does exists."""
    budget, charge = setting
    if len(odds) == 3 and shape[0] == 3:
        odds = (0.7, 0.3)
    tree = random_tree(seed, depth=shape[0], alphabet=shape[1], odds=odds, task=task)
    assume(feasible(tree, budget))
    C = tree.bound(budget)
    assume(C > 0)
    penalty = 2 * C / budget.discount**tree.depth / share
    assert solve(tree, budget, penalty=penalty, charge=charge).violation <= share + 1e-9


def test_a_stochastic_world_can_violate_above_the_deterministic_bound():
    """With chance, no finite n makes the optimum safe for certain: a rare violation can be worth its price."""
    budget, C, chance = SafetyBudget(limit=10.0, discount=1.0), 1.0, 0.01
    cost = {(step,): 1e6 if step == 3 else 0.0 for step in range(4)}  # token 1 with its second outcome
    tree = TokenTree(1, 2, cost, {(0,): C, (1,): C, (2,): -C, (3,): -C}, odds=(1 - chance, chance))
    above = solve(tree, budget, penalty=10 * 2 * C)
    assert above.violation == pytest.approx(chance)
    assert above.violation <= 2 * C / (10 * 2 * C)
    assert solve(tree, budget, penalty=2 * C / chance + 1).violation == 0.0


def test_the_readings_differ_where_a_state_recovers():
    """Signed costs: overspend, then earn back. Terminal lets it pass, any-time does not."""
    cost = {(0,): 0.0, (1,): 5.0, (0, 0): 0.0, (0, 1): 0.0, (1, 0): -4.0, (1, 1): -4.0}
    tree = TokenTree(2, 2, cost, {(0, 0): 0.0, (0, 1): 0.0, (1, 0): -2.0, (1, 1): -2.0})
    any_time, terminal = (
        SafetyBudget(limit=3.0, discount=1.0),
        SafetyBudget(limit=3.0, discount=1.0, reading="terminal"),
    )
    assert solve(tree, any_time, penalty=100.0).path(2)[0] == 0
    assert solve(tree, terminal, penalty=100.0, charge="end").path(2)[0] == 1
