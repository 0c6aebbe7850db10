"""What a mutant is: one small change that breaks a promise, and the tests that ought to notice it."""

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


def only(name: str, *parts: str) -> tuple[str, ...]:
    """Some tests of a file, by a word of their names."""
    return (name, "-k", " or ".join(parts))
