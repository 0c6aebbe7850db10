"""Prompts under way on a server: it knows nothing of them but prefixes, and samples behind each beam's."""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, cast

import torch
from torch import BoolTensor, LongTensor, Tensor

from ig_plugins.engine import Block, Matcher, Sampler
from ig_plugins.errors import ConfigurationError, InferenceGuardError
from ig_plugins.grammar import CompiledGrammar
from ig_plugins.remote.calls import Call, Choice, ended
from ig_plugins.remote.dialects import SEED_BITS
from ig_plugins.remote.server import Server
from ig_plugins.remote.states import Ids, States

Group = tuple[int, list[int]]
"""(row, lanes that the same call samples)"""


class Asked(Protocol):
    """What a session asks of the model that it belongs to; `RemoteModel` is one.

    Attributes:
        server: What it can do.
        seeds: Calls have a seed.
        hidden_size: H of its states; 0 where it is not asked for them.
        keyed: Calls have a key, under which the server keeps their states.
    """

    server: Server
    seeds: bool

    @property
    def hidden_size(self) -> int:
        """See above."""

    @property
    def keyed(self) -> bool:
        """See above."""

    def ask(self, calls: Sequence[Call], *, on_step: Callable[[], None] | None = None) -> list[list[Choice]]:
        """The choices of some calls, which are under way together."""

    def states(
        self, calls: Sequence[Call], lanes: Sequence[Sequence[Ids]], *, on_step: Callable[[], None] | None = None
    ) -> list[list[States]]:
        """The states of each call's lanes."""


class RemoteSession:
    """The beams of B prompts as token ids; see `ig_plugins.search.PolicySession`.

    Args:
        model: Samples.
        prompts: Token ids of B prompts.
    """

    def __init__(self, model: Asked, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._beams: list[list[Ids | None]] = []  # prompt and answer so far, by row and beam
        self._names: list[str] = []  # by row, see `Call.session`
        self._lanes: list[list[Ids | None]] | None = None  # of the open block
        self.add_rows(prompts)

    @property
    def rows(self) -> int:
        """B."""
        return len(self._beams)

    def sample(
        self,
        parents: Tensor,
        *,
        samplers: Sequence[Sampler],
        uniforms: Tensor,
        max_tokens: Sequence[int] | Tensor,
        stop_ids: Collection[int],
        penalties: Sequence[Tensor | None] | None = None,
        histories: Sequence[Sequence[Sequence[int]]] | None = None,
        matchers: Sequence[Sequence[Matcher] | None] = (),
        on_step: Callable[[], None] | None = None,
        keep_states: bool = False,
    ) -> Block:
        """Opens a block: a call for every beam, all of them under way at once.

        Raises:
            RemoteError: The server failed, or gave something else than was asked for. The block stays closed.
            ConfigurationError: Penalties, logits processors or a grammar in its middle, which are not sent to servers.
        """
        if any(each is not None for each in penalties or ()) or any(each.processors for each in samplers):
            raise ConfigurationError("retry penalties and logits processors cannot be sent to a server; leave them out")
        grammars = [None if each is None else _unread(each) for each in matchers] or [None] * len(samplers)
        limits = torch.as_tensor(max_tokens, dtype=torch.long)
        limits = (limits.unsqueeze(1) if limits.dim() == 1 else limits).expand(parents.shape)
        groups = self._groups(parents, limits, samplers)
        stops = frozenset(stop_ids)
        calls = [
            self._call((row, lanes), parents, limits, samplers[row], uniforms, stops, grammars[row])
            for row, lanes in groups
        ]
        found = self._model.ask(calls, on_step=on_step)
        sampled = [
            [ended(choice, call, echoes=self._model.server.echoes_stop) for choice in choices]
            for call, choices in zip(calls, found, strict=True)
        ]
        H = self._model.hidden_size
        states = self._model.states(calls, [[ids for ids, _ in mine] for mine in sampled], on_step=on_step) if H else []
        B, L, T = uniforms.shape
        tokens = torch.full((B, L, T), -1)
        hidden, total = torch.zeros(B, L, H), torch.zeros(B, L, H)
        lengths, finished = torch.zeros(B, L, dtype=torch.long), torch.zeros(B, L, dtype=torch.bool)
        opened = [[None if beam < 0 else self._beams[row][beam] for beam in mine] for row, mine in _listed(parents)]
        for number, ((row, lanes), call) in enumerate(zip(groups, calls, strict=True)):
            for place, lane in enumerate(lanes):
                choice = place % call.count  # a greedy call gives one for all
                mine, done = sampled[number][choice]
                if H:
                    hidden[row, lane], total[row, lane] = states[number][choice].last, states[number][choice].total
                tokens[row, lane, : len(mine)] = torch.tensor(mine)
                lengths[row, lane], finished[row, lane] = len(mine), done
                opened[row][lane] = (*call.prefix, *mine)
        self._lanes = opened
        return Block(
            cast("LongTensor", tokens),
            cast("LongTensor", lengths),
            cast("BoolTensor", finished),
            hidden,
            total,
            torch.zeros(B, L, 0, H),
        )

    def select(self, lanes: Tensor) -> None:
        """See `PolicySession`."""
        if self._lanes is None:
            raise InferenceGuardError("no block is open; sample one before selecting its lanes")
        self._beams = [[None if lane < 0 else self._lanes[row][lane] for lane in mine] for row, mine in _listed(lanes)]
        self._lanes = None

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `PolicySession`."""
        self._beams += [[tuple(int(token) for token in prompt)] for prompt in prompts]
        self._names += [_name(prompt) for prompt in prompts]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See `PolicySession`."""
        self._beams, self._names = [self._beams[row] for row in rows], [self._names[row] for row in rows]

    def _groups(self, parents: Tensor, limits: Tensor, samplers: Sequence[Sampler]) -> list[Group]:
        """The lanes of each call: those of one beam, or fewer where the server gives only so many."""
        groups = []
        for row, mine in _listed(parents):
            growing: dict[tuple[int, int], list[int]] = {}
            for lane, beam in enumerate(mine):
                if beam >= 0 and int(limits[row, lane]) > 0:
                    growing.setdefault((beam, int(limits[row, lane])), []).append(lane)
            for lanes in growing.values():
                size = len(lanes) if samplers[row].temperature == 0 else self._model.server.most
                groups += [(row, lanes[at : at + size]) for at in range(0, len(lanes), size)]
        return groups

    def _call(
        self,
        group: Group,
        parents: Tensor,
        limits: Tensor,
        sampler: Sampler,
        uniforms: Tensor,
        stop_ids: frozenset[int],
        grammar: CompiledGrammar | None,
    ) -> Call:
        row, lanes = group
        prefix = self._beams[row][int(parents[row, lanes[0]])]
        if prefix is None:
            raise InferenceGuardError(f"lane {lanes[0]} grows from a beam that is not there")
        return Call(
            prefix=prefix,
            count=1 if sampler.temperature == 0 else len(lanes),
            max_tokens=int(limits[row, lanes[0]]),
            sampler=sampler,
            stop_ids=stop_ids,
            seed=hashed_seed(float(uniforms[row, lanes[0], 0])) if self._model.seeds else None,
            grammar=grammar,
            session=self._names[row],
            key=secrets.token_hex(16) if self._model.keyed else None,
        )


def hashed_seed(uniform: float) -> int:
    """A seed for one call out of one of its numbers.

    Servers give child i of a call the seed + i, so seeds must lie far apart: beams with the next number as their seed
    would repeat one another's draws.
    """
    digest = hashlib.sha256(struct.pack("<d", uniform)).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)


def _unread(beams: Sequence[Matcher]) -> CompiledGrammar:
    """The grammar of a row whose answer has not begun: a server begins it anew with every call.

    Raises:
        ConfigurationError: It has begun.
    """
    first = beams[0]
    if not isinstance(first, CompiledGrammar) or any(getattr(each, "read", 1) for each in beams):
        raise ConfigurationError("a server cannot go on in the middle of a grammar; let its answer be a single block")
    return first


def _name(prompt: Sequence[int]) -> str:
    """A prompt's name: the same in every process, and nothing can be read from it."""
    return hashlib.sha256(",".join(str(int(token)) for token in prompt).encode()).hexdigest()[:32]


def _listed(index: Tensor) -> list[tuple[int, list[int]]]:
    return list(enumerate(index.tolist()))
