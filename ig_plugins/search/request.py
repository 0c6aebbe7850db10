"""One prompt's order to the search: what to answer, under which settings, and who listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

import torch
from torch import Tensor

from critic_models.safety import SafetyBudget
from ig_plugins.engine import Matcher
from ig_plugins.errors import DeadlineExceededError, InferenceGuardError, RequestCancelledError
from ig_plugins.search.config import SearchConfig


class Reply(Protocol):
    """An answer as its reader takes it apart: words, and calls of tools."""

    @property
    def text(self) -> str:
        """The words."""

    @property
    def tool_calls(self) -> Sequence[Mapping[str, Any]]:
        """The calls, each with ``name`` and ``arguments``."""

    @property
    def malformed(self) -> bool:
        """Whether it began a call that is none, or does not fit its tool."""

    def handed_out(self) -> Sequence[str]:
        """Every text that leaves, alone and together, as judges of texts read it."""


class Watcher(Protocol):
    """Who looks at a request's search from outside and changes nothing: `search.trace.Recorder`."""

    def rewind(self) -> None:
        """The request starts anew."""

    def judged(self, lanes: Any, judgement: Any, index: int, *, ranks: bool) -> Callable[[Sequence[int]], None]:
        """The row at ``index`` of `Lanes` has been judged, by a `Judgement`, and nothing was chosen yet.

        Returns:
            To be called when the block is done, with the lanes that were kept.
        """


@dataclass(eq=False)
class Request:
    """One prompt with its settings.

    Attributes:
        prompt_ids: What the policy reads, a prefilled assistant turn included.
        judge_ids: What judges on the tree read, the prefill left out.
        judge_prompt: What judges of texts get as the prompt.
        prefill_ids: Assistant tokens that the answer is made to start with; they spend budget.
        prefill_text: Their text.
        written: How many of them the caller wrote; the others are the start of a forced call.
        written_text: Their text.
        search: The search's settings.
        budgets: One budget a cost model.
        seed: Seeds every draw of this request.
        stop: Strings that end the answer; they are not part of it.
        stop_ids: Tokens that end it besides the policy's own, likewise.
        parse: Takes a finished answer apart, given its text and tokens; None where the text itself is handed out.
        held_from: How many leading characters of a growing answer may be shown; the rest may become a tool call.
        stream: Text is released while decoding.
        deadline: In `time.monotonic` seconds; None for no limit.
        processors: transformers' logits processors, applied to this request's lanes.
        grammar: What the answer must be, behind its prefill; None for anything.
        has_form: The grammar is of the whole answer, and not of the calls in free words.
        cancelled: Set by the caller to stop.
        begun: Text has been released.
        judge_timeout: Seconds that one call of a judge of texts may take.
        failure: Why it must stop, where that is its own fault; nothing leaves any more.
        watcher: Who looks on.
    """

    prompt_ids: Sequence[int]
    judge_ids: Sequence[int]
    judge_prompt: str
    search: SearchConfig
    budgets: tuple[SafetyBudget, ...]
    seed: int
    prefill_ids: Sequence[int] = ()
    prefill_text: str = ""
    written: int = 0
    written_text: str = ""
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    parse: Callable[[str, Sequence[int]], Reply] | None = None
    held_from: Callable[[str], int] = len
    stream: bool = False
    deadline: float | None = None
    processors: tuple[Any, ...] = ()
    grammar: Matcher | None = None
    has_form: bool = False
    cancelled: Event = field(default_factory=Event)
    started: float = field(default_factory=time.monotonic)
    begun: bool = False
    judge_timeout: float = 60.0
    failure: InferenceGuardError | None = None
    watcher: Watcher | None = None

    def __post_init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        """Back to the first draw: the same request again gives the same answer."""
        self._generator = torch.Generator().manual_seed(self.seed)
        self.failure = None
        if self.watcher is not None:
            self.watcher.rewind()

    def uniforms(self, lanes: int, tokens: int, *, beams: int = 1) -> Tensor:
        """Fresh uniform numbers for one block, shape (L, T), float64.

        Drawn before the block is sampled, so that the answer does not depend on which lanes end early or on the
        other prompts of the batch.

        Args:
            lanes: L.
            tokens: T.
            beams: Lane l continues beam l % beams. Stratified, the lanes of a beam share [0, 1) out evenly at every
                token, in an order of its own (a Latin hypercube): each lane is still drawn exactly from the policy,
                but together they repeat one another less (in the spirit of arithmetic sampling, arXiv 2210.15458).
        """
        drawn = torch.rand(lanes, tokens, generator=self._generator, dtype=torch.float64)
        if not self.search.stratified:
            return drawn
        order = torch.rand(lanes, tokens, generator=self._generator, dtype=torch.float64)
        for beam in range(min(beams, lanes)):
            strata = order[beam::beams].argsort(dim=0)
            drawn[beam::beams] = (strata + drawn[beam::beams]) / len(strata)
        return drawn.clamp_(max=1 - 2**-53)  # rounding must not make it 1

    def uniform(self) -> float:
        """One fresh number in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def interruption(self) -> InferenceGuardError | None:
        """Why this request must stop now; None when it need not."""
        if self.failure is not None:
            return self.failure
        if self.cancelled.is_set():
            return RequestCancelledError("the request was cancelled by its caller; nothing more was decoded")
        if self.deadline is not None and time.monotonic() > self.deadline:
            allowed = self.deadline - self.started
            return DeadlineExceededError(
                f"no verified answer within the timeout of {allowed:.3g} s; "
                "allow more time, or ask for fewer candidates or tokens"
            )
        return None
