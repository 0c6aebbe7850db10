"""How a guard travels to another process: a pickle holds the names that it was loaded from and its options, no weights.

Ray, Spark and multiprocessing pickle what they ship. Weights would make that gigabytes, and a certificate is about the
models on the other side: so they are loaded there, by name, once a process, and a certificate is held against them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

from critic_models.judges.named import code_of
from ig_plugins.errors import MismatchError

if TYPE_CHECKING:
    from ig_plugins.guard.components import Components

NAMED = ("model", "cost_model", "reward_model", "critic", "tokenizer")  # what may be an object instead of a name


def recipe_of(components: Components) -> dict[str, Any]:
    """What `InferenceGuard.from_pretrained` was asked to load.

    Raises:
        TypeError: Something was handed in as an object that no other process can find.
    """
    if components.recipe is None:
        raise TypeError(
            "this guard was made of loaded parts, and pickles carry names, never weights; load it with "
            "InferenceGuard.from_pretrained from names of checkpoints, or make it in the process that uses it"
        )
    for name, part in _parts(components.recipe):
        check_has_name(name, part)
    return dict(components.recipe)


def codes_of(recipe: Mapping[str, Any]) -> list[str | None]:
    """The hash of the code of each part that is a function; see `check_codes`."""
    return [code_of(part) for _, part in _parts(recipe)]


def check_codes(recipe: Mapping[str, Any], codes: Sequence[str | None]) -> None:
    """Sees that a function is here what it was where a guard was pickled: a pickle names it, and brings it along not.

    Raises:
        MismatchError: It is defined by a file with another content.
    """
    for (name, part), there, here in zip(_parts(recipe), codes, codes_of(recipe), strict=True):
        if there is not None and here is not None and there != here:
            called = part if isinstance(part, str) else f"{part.__module__}.{part.__qualname__}"
            raise MismatchError(
                f"{name}: the file that defines {called} has another content here than where the guard was pickled, so "
                "that other answers could pass; ship the same file, or load the guard here"
            )


def check_has_name(name: str, part: Any) -> None:
    """See that a pickle of a part would be a name.

    Raises:
        TypeError: It is neither the name of a checkpoint nor a function that can be imported.
    """
    if not _has_name(part):
        raise TypeError(
            f"{name} is an object of type {type(part).__name__}, and pickles carry names, never weights; "
            "save it and give its folder, or give a function that a module defines"
        )


def _has_name(part: Any) -> bool:
    if part is None or isinstance(part, str | bool):
        return True
    if not isinstance(part, FunctionType):
        return False
    return getattr(sys.modules.get(part.__module__), part.__qualname__, None) is part


def _parts(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    given = [(name, recipe[name]) for name in NAMED]
    return [(name, part) for name, each in given for part in (each if isinstance(each, list | tuple) else [each])]
