"""What a decoding method is, and the registry by name: a method is one file in this folder."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ig_plugins.errors import ConfigurationError, did_you_mean
from ig_plugins.research.methods.context import Context


@dataclass(frozen=True)
class Answer:
    """What a method gives for one prompt.

    Attributes:
        text: What the user sees.
        token_ids: Its tokens; empty if blocked.
        finished: It ended with a stop token.
        blocked: The method abstained, and the text is a refusal.
        candidate_tokens: Tokens sampled for it, in all lanes.
        judge_calls: Calls of cost and reward models.
        judge_tokens: Tokens that they read.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    blocked: bool = False
    candidate_tokens: int = 0
    judge_calls: int = 0
    judge_tokens: int = 0

    @classmethod
    def of(
        cls, context: Context, ids: Sequence[int], *, candidate_tokens: int, judge_calls: int = 0, judge_tokens: int = 0
    ) -> "Answer":
        """A response of the policy as an answer."""
        return cls(
            text=context.policy.detokenizer.text(ids),
            token_ids=tuple(ids),
            finished=ids[-1] in context.policy.stop_ids,
            candidate_tokens=candidate_tokens,
            judge_calls=judge_calls,
            judge_tokens=judge_tokens,
        )


class Method(Protocol):
    """Answers prompts. The same seed gives a prompt the same answer, whatever other prompts it is asked with."""

    def answer(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Answer]:
        """One answer a prompt, in order; each prompt has its own seed."""


Builder = Callable[[Context], Method]


@dataclass(frozen=True)
class Entry:
    """A registered method.

    Attributes:
        name: On the command line and in results.
        build: Makes it.
        summary: One line for reports.
        searches: It has candidates, so that it is run once for each number of them.
        trains: It learns a value network from the policy's answers to the training prompts.
        critic: It needs the guard's critic.
    """

    name: str
    build: Builder
    summary: str
    searches: bool = True
    trains: bool = False
    critic: bool = False


ORDER = ("base", "bon", "beam", "args", "re-control", "controlled", "inferenceguard")  # of reports
_entries: dict[str, Entry] = {}


def register(
    name: str, summary: str, *, searches: bool = True, trains: bool = False, critic: bool = False
) -> Callable[[Builder], Builder]:
    """Registers a builder under a name; see `Entry`."""

    def add(build: Builder) -> Builder:
        _entries[name] = Entry(name, build, summary, searches, trains, critic)
        return build

    return add


def methods() -> dict[str, Entry]:
    """All methods by name. Importing the files of this folder is what registers them."""
    package = importlib.import_module("ig_plugins.research.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"ig_plugins.research.methods.{module.name}")
    rank = {name: min((i for i, start in enumerate(ORDER) if name.startswith(start)), default=-1) for name in _entries}
    return {name: _entries[name] for name in sorted(_entries, key=rank.__getitem__)}


def method(name: str) -> Entry:
    """One method.

    Raises:
        ConfigurationError: There is no such method.
    """
    known = methods()
    if name not in known:
        raise ConfigurationError(f"no method '{name}'; choose from {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]
