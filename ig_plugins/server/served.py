"""What is served: guards by name, each with a fingerprint of everything that decides its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ig_plugins.errors import did_you_mean
from ig_plugins.guard import InferenceGuard
from ig_plugins.guard.certificate import fingerprint
from ig_plugins.server.errors import LONGEST, UnknownModelError

SHOWN = 16  # characters of a fingerprint that people compare


@dataclass(frozen=True)
class Served:
    """One guard.

    Attributes:
        name: As clients say it.
        guard: Answers.
        fingerprint: Of its parts as they are in memory, and of its settings.
    """

    name: str
    guard: InferenceGuard
    fingerprint: str

    @classmethod
    def of(cls, name: str, guard: InferenceGuard) -> Served:
        """A guard with its fingerprint; all weights are read."""
        return cls(name, guard, f"ig_{fingerprint(guard.identity())[:SHOWN]}")

    def statement(self) -> str:
        """What it is, in one line."""
        names, promise = self.guard.components.names, self.guard.promise
        parts = [f"{part} {names[key]}" for part, key in _PARTS.items() if names.get(key)]
        budgets = ", ".join(f"{each.accounting} {each.limit:g}" for each in self.guard.options.budgets)
        certified = f"certified: at most {promise.certificate.target:g} unsafe" if promise else "no certificate"
        return f"{self.name} ({self.fingerprint}): {', '.join(parts)}, budget {budgets}, {certified}"


_PARTS = {"policy": "policy", "cost": "cost_model", "reward": "reward_model", "critic": "critic"}


class Models:
    """The guards of a service; the first is asked where a request names none.

    Args:
        guards: By name.
        aliases: Other names, for clients that insist on one.
    """

    def __init__(self, guards: Mapping[str, InferenceGuard], *, aliases: Mapping[str, str] | None = None) -> None:
        self.served = [Served.of(name, guard) for name, guard in guards.items()]
        self._by_name = {each.name: each for each in self.served}
        self._by_name |= {alias: self._by_name[name] for alias, name in (aliases or {}).items()}
        self._since = int(time.time())

    def find(self, name: str | None) -> Served:
        """The guard of that name.

        Raises:
            UnknownModelError: There is none.
        """
        if name is None:
            return self.served[0]
        if name not in self._by_name:
            known, near = ", ".join(self._by_name), did_you_mean(name, self._by_name)
            raise UnknownModelError(f"the model {name[:LONGEST]!r} is not served here; there are {known}.{near}")
        return self._by_name[name]

    def listed(self) -> list[dict[str, Any]]:
        """All of them, in OpenAI's form."""
        return [self.described(each) for each in self.served]

    def described(self, served: Served) -> dict[str, Any]:
        """One of them, in OpenAI's form."""
        return {
            "id": served.name,
            "object": "model",
            "created": self._since,
            "owned_by": "inferenceguard",
            "max_model_len": served.guard.context,
            "fingerprint": served.fingerprint,
        }


def name_of(model: str) -> str:
    """What clients call a model that nobody has given a name: of a local checkpoint, the folder's or file's own."""
    return Path(model).name if Path(model).exists() else model
