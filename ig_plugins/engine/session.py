"""A batch of prompts being searched: beams between blocks, lanes inside one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ig_plugins.engine.backends.base import DeviceBackend, Stepper, TreeBackend, TrimmingBackend
from ig_plugins.engine.speedups.cuda_graphs import StepRecorder
from ig_plugins.engine.speedups.ngram_draft import NgramDrafts
from ig_plugins.engine.states import LaneLogits, appended, chosen, updated
from ig_plugins.engine.tree import Packing, TokenTree, TreeStateError
from ig_plugins.errors import PromptError

Able = TypeVar("Able", bound=TreeBackend)


class Followed(Protocol):
    """What a session asks of the model that it belongs to; `TreeModel` is one."""

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and answer together; None for no limit."""

    @property
    def context_note(self) -> str:
        """Why the context ends there."""

    @property
    def drafts(self) -> NgramDrafts:
        """The n-grams that the model sampled before, to draft from."""

    @property
    def recorder(self) -> StepRecorder | None:
        """Records a step on CUDA."""


@dataclass(frozen=True)
class Proposal:
    """M tokens that were fed and may be taken back.

    Attributes:
        packing: Whose they are.
        hidden: The model's states at them, shape (M, H).
        logits: Its logits after them, shape (M, V).
    """

    packing: Packing
    hidden: Tensor
    logits: Tensor


class TreeSession:
    """The tokens of B prompts' trees, and the model's state at every beam and lane.

    A block runs ``fork``, then any number of ``extend`` and ``append``, then ``select`` or ``rollback``. Rows are added
    and kept between blocks. Absent beams and lanes (-1) hold zeros or leftovers: finite, seen by nobody.

    Attributes:
        tree: Who is whose parent, and all lengths.
        hidden: State after the final norm at every beam's last token, shape (B, K, H).
        logits: The model's logits there, shape (B, K, V); None for a body without LM head.
        lane_hidden: The same for the open block's lanes, shape (B, L, H); their beam's until they grow.
    """

    @torch.inference_mode()
    def __init__(
        self, model: Followed, backend: TreeBackend, prompts: Sequence[Sequence[int]], *, max_new: int
    ) -> None:
        self.model, self.backend, self.max_new = model, backend, max_new
        self._trimming = backend if isinstance(backend, TrimmingBackend) else None
        self._device = backend if isinstance(backend, DeviceBackend) else None
        self._check(prompts)
        self.tree = TokenTree([len(prompt) for prompt in prompts])
        hidden, logits = backend.prefill(prompts)
        self.hidden: Tensor = hidden.unsqueeze(1)
        self.logits: Tensor | None = None if logits is None else logits.unsqueeze(1)
        self._packing: Packing | None = None
        self._stepper: Stepper | None = None
        self._lane_logits: LaneLogits | None = None
        self._leaders: Tensor | None = None
        self._close()

    @property
    def rows(self) -> int:
        """B, the number of prompts."""
        return self.tree.rows

    @property
    def lane_logits(self) -> Tensor | None:
        """The model's logits at every lane of the open block, shape (B, L, V); None without block or LM head."""
        if self._lane_logits is None or self._leaders is None:
            return None if self._lane_logits is None else self._lane_logits.all()
        return chosen(self._lane_logits.all(), self._leaders)

    def logits_at(self, rows: Tensor, lanes: Tensor) -> Tensor:
        """Logits (n, V) of some lanes of the open block, (n,) each, in ascending order.

        Raises:
            TreeStateError: No block is open, or the body has no LM head.
        """
        if self._lane_logits is None:
            raise TreeStateError("There are no lanes with logits; fork a body with an LM head first.")
        return self._lane_logits.at(rows, lanes)

    @torch.inference_mode()
    def fork(self, parents: Tensor) -> None:
        """Open a block.

        Args:
            parents: Beam that each lane grows from, shape (B, L); -1 for an absent lane.

        Raises:
            TreeStateError: A block is open, or a lane names a beam that is not there.
        """
        self.tree.fork(parents)
        self.backend.fork(self.tree.open_parents)
        self.lane_hidden = chosen(self.hidden, parents)
        self._lane_logits = None if self.logits is None else LaneLogits(self.logits, parents)

    @torch.inference_mode()
    def extend(self, tokens: Tensor, active: Tensor) -> None:
        """Put one token on every active lane; the forward holds no others.

        Args:
            tokens: Shape (B, L); whatever stands at inactive lanes is not read.
            active: Bool, shape (B, L).

        Raises:
            TreeStateError: No block is open, or an absent lane is active.
        """
        packing = self._packed(active)
        if len(packing):
            self._forward(tokens.to("cpu")[packing.rows, packing.lanes], packing)

    @torch.inference_mode()
    def append(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Put given tokens on the lanes, any number each, in one forward.

        Args:
            tokens: Shape (B, L, T), padded at the right with anything.
            lengths: Tokens of each lane, shape (B, L); 0 leaves a lane alone.

        Returns:
            Hidden states of the fed tokens, shape (B, L, T, H); zeros at padding.

        Raises:
            TreeStateError: No block is open, or an absent lane is fed.
        """
        packing = self._packed(lengths)
        states = self.hidden.new_zeros(*tokens.shape, self.hidden.shape[-1])
        if len(packing):
            at = packing.rows, packing.lanes, packing.steps
            states[at] = self._forward(tokens.to("cpu")[at], packing)
        return states

    @property
    def can_draft(self) -> bool:
        """Whether tokens that were proposed can be taken back."""
        return self._trimming is not None

    @torch.inference_mode()
    def draft(self, tokens: Mapping[tuple[int, int], Sequence[int]]) -> Proposal:
        """Put tokens on lanes of which some may be wrong; ``verify_draft`` is to follow.

        Args:
            tokens: By (row, lane), in this order; lanes that are not named are left alone.

        Raises:
            TreeStateError: No block is open, or an absent lane is named.
        """
        counts = torch.zeros_like(self.tree.open_parents)
        for key, mine in tokens.items():
            counts[key] = len(mine)
        packing = self._packed(counts)
        flat = torch.tensor([token for mine in tokens.values() for token in mine])
        hidden, logits = self.backend.forward(self.tree, flat, packing, packing.all)
        if logits is None:
            raise TreeStateError("A body without LM head gives no logits; nothing can be proposed to it.")
        self.tree.grow(packing)
        return Proposal(packing, hidden, logits)

    @torch.inference_mode()
    def verify_draft(self, proposal: Proposal, kept: Tensor) -> None:
        """Keep of what was just proposed the first ``kept`` (B, L) tokens of each lane, at least one."""
        packing = proposal.packing
        if not torch.equal(kept, packing.counts):
            self._need(self._trimming).trim(packing, kept)
            self.tree.cut(self.tree.grown - packing.counts + kept)
        last = packing.ends(kept)
        self._stand(packing, last, proposal.hidden[last], proposal.logits[last])

    @property
    def runs_device_blocks(self) -> bool:
        """Whether a block need not be watched: its device is waited for, and what is too much can be taken back."""
        return self._device is not None and self.lane_hidden.device.type != "cpu"

    def prepare(self, active: Tensor, taken: Tensor, steps: int) -> None:
        """Let ``advance`` put tokens on these lanes of a fresh block, bool, shape (B, L), up to so many times.

        Args:
            active: The lanes.
            taken: How often it did, on the device, shape (1,); the caller counts.
            steps: At most.
        """
        self._packing = self.tree.pack(active.long())
        self._stepper = self._need(self._device).stepper(self.tree, self._packing, taken, steps)

    @torch.inference_mode()
    def advance(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Put one token on each of the M prepared lanes; nothing is asked of the device.

        Args:
            tokens: On the device, shape (M,).

        Returns:
            Hidden states (M, H) and logits (M, V).

        Raises:
            TreeStateError: Nothing was prepared, or the body has no LM head.
        """
        _, step = self._prepared()
        hidden, logits = step(tokens)
        if logits is None:
            raise TreeStateError("A body without LM head gives no logits to draw from.")
        return hidden, logits

    @torch.inference_mode()
    def cut(self, lengths: Tensor, hidden: Tensor, logits: Tensor) -> None:
        """Keep these lengths (B, L) of what advanced lanes sampled; their states are these (M, H) and (M, V).

        Raises:
            TreeStateError: Nothing was prepared.
        """
        packing, _ = self._prepared()
        self.tree.cut(lengths)
        self._stand(packing, None, hidden, logits)
        self._packing = self._stepper = None

    @torch.inference_mode()
    def follow(self, leaders: Tensor) -> None:
        """Let lanes that sampled the same tokens as another one take its states, at the end of a block.

        Args:
            leaders: The lane that each lane stands at, shape (B, L); itself for lanes that grew by themselves.
        """
        self._leaders = leaders
        self.lane_hidden = chosen(self.lane_hidden, leaders)

    @torch.inference_mode()
    def select(self, lanes: Tensor) -> None:
        """Close the block: the named lanes become the beams, every other lane is compacted away.

        Args:
            lanes: Lane of each new beam, shape (B, K); -1 for an absent beam. A lane may be named twice.

        Raises:
            TreeStateError: No block is open, or an absent lane is named.
        """
        self.tree.check_lanes(lanes)
        states = chosen(self.lane_hidden, lanes)
        if self._leaders is not None:
            lanes = torch.where(lanes < 0, lanes, self._leaders.gather(1, lanes.clamp(min=0)))
        self.backend.select(self.tree, lanes.to("cpu", torch.long))
        self.tree.select(lanes)
        self.hidden = states
        if self._lane_logits is not None:
            self.logits = chosen(self._lane_logits.all(), lanes)
        self._close()

    @torch.inference_mode()
    def rollback(self) -> None:
        """Drop the open block; the beams are as before ``fork``."""
        self.backend.rollback()
        self.tree.rollback()
        self._close()

    @torch.inference_mode()
    def add_rows(self, prompts: Sequence[Sequence[int]]) -> None:
        """Append a row with one beam for every prompt, between blocks.

        Raises:
            PromptError: A prompt is empty or too long.
            TreeStateError: A block is open.
        """
        self._check(prompts)
        self.tree.add_rows([len(prompt) for prompt in prompts])
        hidden, logits = self.backend.add_rows(prompts)
        self.hidden = appended(self.hidden, hidden)
        if self.logits is not None and logits is not None:
            self.logits = appended(self.logits, logits)
        self._close()

    @torch.inference_mode()
    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order, between blocks.

        Raises:
            TreeStateError: A block is open.
        """
        index = torch.tensor(list(rows), dtype=torch.long)
        self.tree.keep_rows(index)
        self.backend.keep_rows(index)
        index = index.to(self.hidden.device)
        self.hidden = self.hidden[index]
        self.logits = None if self.logits is None else self.logits[index]
        self._close()

    def memory(self) -> dict[str, int]:
        """Bytes of keys and values by place: ``prompt``, ``beams`` and ``block`` count each token once.

        ``allocated`` is what the buffers take, reserve for later blocks included.
        """
        return self.backend.memory(self.tree)

    def _prepared(self) -> tuple[Packing, Stepper]:
        """What ``prepare`` laid out."""
        if self._packing is None or self._stepper is None:
            raise TreeStateError("Say which lanes advance first; call prepare.")
        return self._packing, self._stepper

    @staticmethod
    def _need(backend: Able | None) -> Able:
        """A backend that can do what is asked of it."""
        if backend is None:
            raise TreeStateError(
                "This model's backend takes no tokens back; ask `can_draft` and `runs_device_blocks` first."
            )
        return backend

    def _packed(self, counts: Tensor) -> Packing:
        """The packing of these counts; a step mostly repeats the one before it."""
        counts = counts.to("cpu", torch.long)
        if self._packing is None or not torch.equal(self._packing.counts, counts):
            self._packing = self.tree.pack(counts)
        return self._packing

    def _forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        last, single = packing.last, len(packing.last) == len(packing)
        hidden, logits = self.backend.forward(self.tree, tokens, packing, last)
        self.tree.grow(packing)
        self._stand(packing, None if single else last, hidden if single else hidden[last], logits)
        return hidden

    def _stand(self, packing: Packing, last: Tensor | None, hidden: Tensor, logits: Tensor | None) -> None:
        """Let the lanes of these packed tokens, None for all, stand at these states."""
        at = (packing.rows, packing.lanes) if last is None else (packing.rows[last], packing.lanes[last])
        self.lane_hidden = updated(self.lane_hidden, at, hidden)
        if self._lane_logits is not None and logits is not None:
            self._lane_logits.update(*at, logits)

    def _close(self) -> None:
        self._packing = self._leaders = self._stepper = None
        self.lane_hidden = self.hidden[:, :0]
        self._lane_logits = None

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Whether every prompt has a token and leaves room for the answer."""
        context = self.model.context
        for prompt in prompts:
            if len(prompt) == 0:
                raise PromptError("The prompt has no tokens; give at least one, for example the tokenizer's BOS.")
            if context is not None and len(prompt) + self.max_new > context:
                raise PromptError(
                    f"The prompt has {len(prompt)} tokens and the answer may have {self.max_new}, but the model's "
                    f"context is {context}{self.model.context_note}; shorten the prompt or ask for fewer tokens."
                )
