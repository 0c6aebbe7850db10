"""Small token-tree decision processes that can be solved exactly.

A prefix is a tuple of steps. A step of a deterministic process is the token; in a stochastic one the token is drawn
an outcome by the world, and the step is the pair of both, as one number. Safety state and reshaped costs come from
``critic_models.safety``, so what is proved here is proved of the code that decodes.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from critic_models.safety import SafetyBudget, advance, initial_state, is_safe, reshaped_cost

Prefix = tuple[int, ...]
Charge = Literal["every", "end"]  # the penalty at each unsafe step (Sauté), or at the last step only
TIE = 1e-9


@dataclass
class TokenTree:
    """Depth T, alphabet A; per prefix a safety cost (of its last step) and a task cost (of being there)."""

    depth: int
    alphabet: int
    cost: dict[Prefix, float]
    task: dict[Prefix, float]
    odds: tuple[float, ...] = (1.0,)  # of the world's outcomes
    _states: dict[tuple[Prefix, SafetyBudget], torch.Tensor] = field(default_factory=dict)

    def children(self, prefix: Prefix, token: int) -> list[tuple[float, Prefix]]:
        """The prefixes that a token may lead to, with their probabilities."""
        return [(odds, (*prefix, token * len(self.odds) + outcome)) for outcome, odds in enumerate(self.odds)]

    def leaves(self) -> Iterator[Prefix]:
        return itertools.product(range(self.alphabet * len(self.odds)), repeat=self.depth)

    def state(self, prefix: Prefix, budget: SafetyBudget) -> torch.Tensor:
        """z after a prefix."""
        key = (prefix, budget)
        if key not in self._states:
            if not prefix:
                self._states[key] = initial_state(budget)
            else:
                before = self.state(prefix[:-1], budget)
                cost = torch.tensor([self.cost[prefix]], dtype=torch.float64)
                self._states[key] = advance(before, cost, budget)[-1]
        return self._states[key]

    def safe(self, prefix: Prefix, budget: SafetyBudget) -> bool:
        return bool(is_safe(self.state(prefix, budget), budget))

    def violates(self, leaf: Prefix, budget: SafetyBudget) -> bool:
        """Whether a whole trajectory breaks the budget, in the budget's reading."""
        first = 1 if budget.reading == "any_time" else self.depth
        return any(not self.safe(leaf[:t], budget) for t in range(first, self.depth + 1))

    def price(self, prefix: Prefix, budget: SafetyBudget, penalty: float, charge: Charge) -> float:
        """The discounted reshaped cost of being at a prefix, γ^t·C̃."""
        t = len(prefix)
        task = torch.tensor(self.task.get(prefix, 0.0), dtype=torch.float64)
        if charge == "every" or t == self.depth:
            task = reshaped_cost(task, self.state(prefix, budget), budget, penalty=penalty)
        return budget.discount**t * task.item()

    def task_total(self, leaf: Prefix, budget: SafetyBudget) -> float:
        return sum(budget.discount**t * self.task.get(leaf[:t], 0.0) for t in range(1, self.depth + 1))

    def bound(self, budget: SafetyBudget) -> float:
        """C, which no part of a trajectory's discounted task costs exceeds in magnitude: a penalty replaces some."""
        return max(
            sum(budget.discount**t * abs(self.task.get(leaf[:t], 0.0)) for t in range(1, self.depth + 1))
            for leaf in self.leaves()
        )


@dataclass(frozen=True)
class Solution:
    """Of the reshaped problem: its value, and the violation probability of the worst of all minimisers."""

    value: float
    violation: float
    choice: dict[Prefix, int]

    def path(self, depth: int) -> Prefix:
        """The trajectory of a deterministic process."""
        prefix: Prefix = ()
        while len(prefix) < depth:
            prefix = (*prefix, self.choice[prefix])
        return prefix


def solve(tree: TokenTree, budget: SafetyBudget, *, penalty: float, charge: Charge = "every") -> Solution:
    """Backward induction over (prefix, z); in a tree the prefix fixes z. Ties go to the more violating choice."""
    choice: dict[Prefix, int] = {}

    def visit(prefix: Prefix, broken: bool) -> tuple[float, float]:
        if prefix:
            unsafe = not tree.safe(prefix, budget)
            broken = unsafe if budget.reading == "terminal" else broken or unsafe
        here = tree.price(prefix, budget, penalty, charge) if prefix else 0.0
        if len(prefix) == tree.depth:
            return here, float(broken)
        options = []
        for token in range(tree.alphabet):
            ends = [(odds, visit(child, broken)) for odds, child in tree.children(prefix, token)]
            options.append((sum(o * e[0] for o, e in ends), sum(o * e[1] for o, e in ends), token))
        least = min(value for value, _, _ in options)
        value, violation, token = max((o for o in options if o[0] <= least + TIE), key=lambda o: o[1])
        choice[prefix] = token
        return here + value, violation

    value, violation = visit((), False)
    return Solution(value, violation, choice)


def feasible(tree: TokenTree, budget: SafetyBudget, prefix: Prefix = ()) -> bool:
    """Whether some policy never violates, whatever the world does."""
    if prefix and budget.reading == "any_time" and not tree.safe(prefix, budget):
        return False
    if len(prefix) == tree.depth:
        return tree.safe(prefix, budget)
    return any(
        all(feasible(tree, budget, child) for odds, child in tree.children(prefix, token) if odds > 0)
        for token in range(tree.alphabet)
    )


def random_tree(
    seed: int, *, depth: int, alphabet: int, odds: tuple[float, ...] = (1.0,), task: Literal["end", "steps"] = "end"
) -> TokenTree:
    """Costs on a coarse grid, so that exact ties and z = 0 occur; signed, so that z can recover."""
    dice = random.Random(seed)
    nodes = [p for t in range(1, depth + 1) for p in itertools.product(range(alphabet * len(odds)), repeat=t)]
    cost = {prefix: dice.choice([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]) for prefix in nodes}
    paid = [p for p in nodes if task == "steps" or len(p) == depth]
    return TokenTree(depth, alphabet, cost, {p: dice.choice([-4.0, -2.0, -1.0, 0.0, 1.0, 3.0]) for p in paid}, odds)
