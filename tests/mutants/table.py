"""Small changes to the code that break a promise, and the tests that ought to notice each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        name: What is broken.
        path: The file, from the repository's root.
        old: Text that stands there once.
        new: What it becomes.
        tests: pytest arguments: the tests that ought to fail.
        quick: Also run by CI.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    quick: bool = False


VERIFIER = "ig_plugins/search/verifier.py"
VERIFIER_TESTS = ("tests/ig_plugins/search/test_verifier.py",)
LEAVES = ("tests/ig_plugins/search/test_exactly_what_leaves.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "any-time read as terminal",
        VERIFIER,
        'return safe.all(dim=-1) if budget.reading == "any_time" else safe[..., -1]',
        "return safe[..., -1]",
        VERIFIER_TESTS,
        quick=True,
    ),
    Mutant(
        "any-time read as terminal in the direct search's lanes",
        VERIFIER,
        'if budget.reading == "any_time":\n        return (safe | ~read).all(dim=-1)',
        "if False:\n        return (safe | ~read).all(dim=-1)",
        VERIFIER_TESTS,
        quick=True,
    ),
)
