"""A policy written down as a table, behind the interface of ``ig_plugins.engine.TreeModel``.

Search, guard and adapters can so be tested with adversarial, tool-calling or exactly enumerable policies and no
weights. The session is strict: a call out of order, a lane too many or a token too far raises ``ContractError``.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ig_plugins.engine import Block, sample_block

Ids = tuple[int, ...]
Policy = Callable[[Ids, Ids], Mapping[int, float]]
"""(prompt ids, response ids) -> probability of each next token; tokens left out have probability 0."""

IMPOSSIBLE = -1e4  # a finite logit, as real models have, that no softmax in double precision ever draws


class ContractError(AssertionError):
    """The caller broke the session's contract."""


def trie(answers: Mapping[Ids, float], *, stop: int) -> Policy:
    """A policy that gives each answer with its probability; ``stop`` ends it. Off the trie it stops at once."""

    def following(prompt: Ids, response: Ids) -> Mapping[int, float]:
        mass: dict[int, float] = {}
        for answer, probability in answers.items():
            whole = (*answer, stop)
            if probability > 0 and whole[: len(response)] == response and len(whole) > len(response):
                token = whole[len(response)]
                mass[token] = mass.get(token, 0.0) + probability
        total = sum(mass.values())
        return {token: part / total for token, part in mass.items()} if mass else {stop: 1.0}

    return following


@lru_cache(maxsize=50_000)
def digest(prompt: Ids, response: Ids, width: int) -> tuple[float, ...]:
    """Features in [-1, 1) that are a fixed function of the tokens, and differ where the tokens differ."""
    seed = zlib.crc32(repr((prompt, response)).encode())
    generator = torch.Generator().manual_seed(seed)
    return tuple((torch.rand(width, generator=generator) * 2 - 1).tolist())


class ScriptedModel:
    """A duck-typed ``TreeModel`` whose next-token distribution is a Python function.

    Args:
        policy: Gives the next-token distribution.
        vocab_size: V.
        hidden_size: H.
        hidden: (prompt, response) -> H floats; by default a fixed digest of the tokens.
        context: Longest sequence, or None.
        fixed: The policy gives the same for the same tokens, so it is asked once.
    """

    path: Literal["scripted"] = "scripted"
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(
        self,
        policy: Policy,
        *,
        vocab_size: int,
        hidden_size: int = 8,
        hidden: Callable[[Ids, Ids], Sequence[float]] | None = None,
        context: int | None = None,
        fixed: bool = False,
    ) -> None:
        self.policy = policy
        self.following = lru_cache(maxsize=20_000)(self._following) if fixed else self._following
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.features = hidden or (lambda prompt, response: digest(prompt, response, hidden_size))
        self.context, self.context_note = context, ""
        self.steps = 0  # calls of extend, all sessions together: how a test sees when decoding stopped

    @classmethod
    def from_answers(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        answers: Mapping[str, float] | Callable[[str], Mapping[str, float]],
        **options: object,
    ) -> "ScriptedModel":
        """A policy that gives whole texts with probabilities.

        Args:
            tokenizer: Encodes the answers; its EOS ends them.
            answers: Text to probability, or a function of the decoded prompt (special tokens dropped) that gives it.
            options: As for the constructor.
        """
        table: dict[Ids, Policy] = {}

        def following(prompt: Ids, response: Ids) -> Mapping[int, float]:
            if prompt not in table:
                text = tokenizer.decode(list(prompt), skip_special_tokens=True)
                told = answers(text) if callable(answers) else answers
                coded = {
                    tuple(tokenizer.encode(answer, add_special_tokens=False)): part for answer, part in told.items()
                }
                table[prompt] = trie(coded, stop=tokenizer.eos_token_id)
            return table[prompt](prompt, response)

        return cls(following, vocab_size=len(tokenizer), fixed=True, **options)  # type: ignore[arg-type]

    def prefill(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> "ScriptedSession":
        """A session with one beam a prompt."""
        return ScriptedSession(self, prompts, lanes=lanes, block=block, max_new=max_new)

    def _following(self, prompt: Ids, response: Ids) -> Tensor:
        """Logits (V,) after a response."""
        logits = torch.full((self.vocab_size,), IMPOSSIBLE)
        for token, probability in self.policy(prompt, response).items():
            if probability > 0:
                logits[token] = torch.tensor(probability).log()
        return logits


class ScriptedSession:
    """The token trees of several prompts; see ``ScriptedModel``."""

    can_draft = runs_device_blocks = False

    def __init__(
        self, model: ScriptedModel, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int
    ) -> None:
        self.model = model
        self.limits = {"lanes": lanes, "block": block, "max_new": max_new}
        self.prompts: list[Ids] = []
        self.beams: list[list[Ids | None]] = []  # response of every beam, None where absent
        self.lanes: list[list[Ids | None]] | None = None  # of the open block
        self.roots: list[list[Ids | None]] = []  # the beam that each lane grew from
        self._parents = torch.zeros(0, 0, dtype=torch.long)
        self.add_rows(prompts)

    @property
    def rows(self) -> int:
        """B."""
        return len(self.prompts)

    @property
    def tree(self) -> SimpleNamespace:
        """Who is whose parent, as far as sampling asks: (B, L) parents of the open block, (B, K) beams, -1 absent."""
        beams = [[-1 if beam is None else index for index, beam in enumerate(row)] for row in self.beams]
        return SimpleNamespace(open_parents=self._parents, beams=torch.tensor(beams, dtype=torch.long))

    @property
    def hidden(self) -> Tensor:
        """(B, K, H) at the last token of every beam."""
        return self._hidden(self.beams)

    @property
    def logits(self) -> Tensor:
        """(B, K, V)."""
        return self._logits(self.beams)

    @property
    def lane_hidden(self) -> Tensor:
        """(B, L, H) at the last token of every lane of the open block."""
        return self._hidden(self._open())

    @property
    def lane_logits(self) -> Tensor:
        """(B, L, V)."""
        return self._logits(self._open())

    def logits_at(self, rows: Tensor, lanes: Tensor) -> Tensor:
        """(n, V)."""
        return self.lane_logits[rows, lanes]

    def fork(self, parents: Tensor) -> None:
        """Opens a block of lanes; (B, L) beam indices, -1 for an absent lane."""
        self._need(self.lanes is None, "fork: the last block is still open; commit or roll back")
        self._shape(parents, "fork")
        self._need(parents.shape[1] <= self.limits["lanes"], f"fork: {parents.shape[1]} lanes of {self.limits}")
        for row, beams in zip(parents.tolist(), self.beams, strict=True):
            missing = [index for index in row if index >= len(beams) or (index >= 0 and beams[index] is None)]
            self._need(not missing, f"fork: lanes grow from absent beams {missing}")
        self.lanes = [
            [None if index < 0 else beams[index] for index in row]
            for row, beams in zip(parents.tolist(), self.beams, strict=True)
        ]
        self.roots = [list(row) for row in self.lanes]
        self._parents = parents.clone()

    def extend(self, tokens: Tensor, active: Tensor) -> None:
        """One token on every active lane; tokens and active are (B, L)."""
        lanes = self._open()
        self._shape(tokens, "extend")
        self.model.steps += 1
        for row, (drawn, growing) in enumerate(zip(tokens.tolist(), active.tolist(), strict=True)):
            for lane, (token, grows) in enumerate(zip(drawn, growing, strict=True)):
                if grows:
                    lanes[row][lane] = self._grow(row, lane, [token])

    def append(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """A whole block at once: (B, L, T) tokens, (B, L) lengths -> hidden states (B, L, T, H), zeros past the end."""
        lanes = self._open()
        self._shape(lengths, "append")
        states = torch.zeros(*tokens.shape, self.model.hidden_size)
        for row in range(self.rows):
            for lane, length in enumerate(lengths[row].tolist()):
                for step in range(length):
                    grown = self._grow(row, lane, [int(tokens[row, lane, step])])
                    lanes[row][lane] = grown
                    states[row, lane, step] = torch.tensor(self.model.features(self.prompts[row], grown))
        return states

    def sample(self, parents: Tensor, **settings: object) -> Block:
        """Samples a block as the engine's sessions do; see ``ig_plugins.engine.sample_block``."""
        return sample_block(self, parents, **settings)  # type: ignore[arg-type]

    def select(self, lanes: Tensor) -> None:
        """Makes lanes (B, K'), -1 for absent, the beams and closes the block."""
        opened = self._open()
        self._shape(lanes, "select")
        self.beams = [
            [None if index < 0 else row[index] for index in chosen]
            for chosen, row in zip(lanes.tolist(), opened, strict=True)
        ]
        self.lanes = None

    def rollback(self) -> None:
        """Drops the open block."""
        self._open()
        self.lanes = None

    def add_rows(self, prompts: Sequence[Sequence[int]]) -> None:
        """Adds rows at the end, between blocks; their other beams are absent."""
        self._need(self.lanes is None, "add_rows: only between blocks")
        width = max((len(row) for row in self.beams), default=1)
        for prompt in prompts:
            self._need(len(prompt) > 0, "prefill: an empty prompt")
            context = self.model.context
            self._need(context is None or len(prompt) <= context, f"prefill: {len(prompt)} tokens, context {context}")
            self.prompts.append(tuple(int(token) for token in prompt))
            self.beams.append([(), *[None] * (width - 1)])

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keeps these rows, between blocks."""
        self._need(self.lanes is None, "keep_rows: only between blocks")
        self.prompts = [self.prompts[row] for row in rows]
        self.beams = [self.beams[row] for row in rows]

    def memory(self) -> dict[str, int]:
        """Bytes as if each token were one int64: prompt, beams, block."""
        lanes = [lane for row in self.lanes or [] for lane in row if lane is not None]
        roots = [root for row in self.roots for root in row if root is not None] if self.lanes else []
        return {
            "prompt": 8 * sum(len(prompt) for prompt in self.prompts),
            "beams": 8 * sum(len(beam) for row in self.beams for beam in row if beam is not None),
            "block": 8 * (sum(map(len, lanes)) - sum(map(len, roots))),
        }

    def _grow(self, row: int, lane: int, tokens: list[int]) -> Ids:
        response, root = self._open()[row][lane], self.roots[row][lane]
        if response is None or root is None:
            raise ContractError(f"lane {lane} of row {row} is absent and cannot grow")
        grown = (*response, *tokens)
        bad = [token for token in tokens if not 0 <= token < self.model.vocab_size]
        self._need(not bad, f"tokens {bad} are outside the vocabulary of {self.model.vocab_size}")
        self._need(len(grown) - len(root) <= self.limits["block"], f"block longer than {self.limits['block']}")
        self._need(len(grown) <= self.limits["max_new"], f"answer longer than {self.limits['max_new']}")
        return grown

    def _open(self) -> list[list[Ids | None]]:
        if self.lanes is None:
            raise ContractError("no block is open: branch first")
        return self.lanes

    def _shape(self, given: Tensor, call: str) -> None:
        self._need(given.ndim >= 2 and given.shape[0] == self.rows, f"{call}: {tuple(given.shape)}, B is {self.rows}")

    @staticmethod
    def _need(condition: bool, message: str) -> None:
        if not condition:
            raise ContractError(message)

    def _hidden(self, table: list[list[Ids | None]]) -> Tensor:
        rows = [
            [[0.0] * self.model.hidden_size if r is None else list(self.model.features(prompt, r)) for r in row]
            for prompt, row in zip(self.prompts, table, strict=True)
        ]
        return torch.tensor(rows).reshape(len(rows), -1, self.model.hidden_size)

    def _logits(self, table: list[list[Ids | None]]) -> Tensor:
        absent = torch.zeros(self.model.vocab_size)
        rows = [
            torch.stack([absent if r is None else self.model.following(prompt, r) for r in row])
            for prompt, row in zip(self.prompts, table, strict=True)
        ]
        return torch.stack(rows) if rows else torch.zeros(0, 1, self.model.vocab_size)


class ScriptedTokenJudge:
    """A judge that follows the token tree: the score of a token is a Python function of (prompt, response so far).

    Hand its tree to the guard's parts: ``Components(..., judge_trees={id(judge): judge.tree})``.

    Args:
        tokenizer: The policy's.
        score: (prompt ids, response ids, the scored token last) -> float.
        name: Shown in results.
        accounting: What its scores mean by default.
    """

    default_limit, default_discount = 10.0, 1.0
    body = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        score: Callable[[Ids, Ids], float],
        *,
        name: str = "scripted",
        accounting: Literal["cumulative", "worst"] = "cumulative",
    ) -> None:
        self.tokenizer, self.name, self.default_accounting = tokenizer, name, accounting
        self.tree = ScriptedModel(
            lambda prompt, response: {},
            vocab_size=len(tokenizer),
            hidden_size=1,
            hidden=lambda prompt, response: [score(prompt, response) if response else 0.0],
        )

    def score_hidden(self, hidden: Tensor) -> Tensor:
        """(..., 1) -> (...)."""
        return hidden[..., 0]

    def score_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Not of use here: a script does not know where the prompt ends."""
        raise NotImplementedError("a scripted token judge only follows trees")

    def score(self, prompts: Sequence[str], responses: Sequence[str], *, finished: object = None) -> list[float]:
        """Not of use here, either."""
        raise NotImplementedError("a scripted token judge only follows trees")
