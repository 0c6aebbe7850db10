"""Drawing tokens: temperature, top-k, top-p, min-p and any transformers logits processor, by inverse CDF.

Transformers' processors change the logits; what comes after them is drawn here, because its own warpers sort the whole
vocabulary at every step (docs/performance.md). Given the same uniform number and the same logits, a draw is the
same in any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from ig_plugins.errors import ConfigurationError, InferenceGuardError, LogitsProcessorError

# How many of the most likely tokens to look at for a nucleus, before all of them are sorted.
NUCLEUS_GUESSES = (64, 1024)
ALMOST_ONE = 1 - 2**-24  # the largest float32 below 1


class NonFiniteLogitsError(InferenceGuardError):
    """The model's logits cannot be sampled from: NaN, +inf, or every token forbidden. No token is drawn."""

    def __init__(self) -> None:
        super().__init__(
            "The model's logits hold NaN, +inf, or forbid every token, so nothing was sampled. Check the weights and "
            "the dtype (float16 overflows where bfloat16 and float32 do not), and any logits processor."
        )


@dataclass(frozen=True)
class Sampler:
    """How a request draws its tokens.

    The order is transformers': repetition penalty, processors, (retry) penalties, a grammar's mask, temperature, top-k,
    top-p, min-p. What comes after the mask counts among allowed tokens alone.

    Attributes:
        temperature: Softmax temperature; 0 takes the most likely token.
        top_k: Draw among the k most likely tokens; 0 for all.
        top_p: Draw inside the smallest set of tokens with at least this mass; 1.0 for all.
        min_p: Draw among tokens at least this share as likely as the most likely one; 0 for all.
        repetition_penalty: As in transformers; 1.0 for none.
        processors: Further transformers logits processors, called with ids (R, T) and scores (R, V).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    processors: tuple[LogitsProcessor, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigurationError(f"temperature is {self.temperature}; give 0 (greedy) or a positive number.")
        if self.top_k < 0:
            raise ConfigurationError(f"top_k is {self.top_k}; give 0 (all tokens) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p is {self.top_p}; give a number in (0, 1].")
        if not 0 <= self.min_p <= 1:
            raise ConfigurationError(f"min_p is {self.min_p}; give 0 (all tokens) or a number up to 1.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigurationError(f"repetition_penalty is {self.repetition_penalty}; give a positive number.")

    @property
    def reads_history(self) -> bool:
        """Whether drawing needs the tokens so far."""
        return self.repetition_penalty != 1.0 or bool(self.processors)

    @property
    def steady(self) -> bool:
        """Whether a draw never has to look at what it computes before it can go on, so that a device can run ahead."""
        return not self.reads_history and (self.top_p == 1 or self.top_k > 0)

    def draw(
        self,
        logits: Tensor,
        uniforms: Tensor,
        *,
        penalties: Tensor | None = None,
        history: Sequence[Sequence[int]] | None = None,
        allowed: Tensor | None = None,
        unseen: list[Tensor] | None = None,
    ) -> LongTensor:
        """Draw tokens.

        Args:
            logits: Shape (R, V).
            uniforms: In [0, 1), shape (R,) for one draw a row or (R, n) for n draws from the same row.
            penalties: Taken off the logits, shape (R, V) or (V,).
            history: The tokens so far of every row, prompt included; needed where ``reads_history``.
            allowed: Tokens that may be drawn, bool, shape (R, V); all by default.
            unseen: For samplers that are ``steady``: takes whether the masses are finite, for the caller to look at
                before anything is made of the tokens. Then no device is waited for.

        Returns:
            Token ids, in the shape of ``uniforms``.

        Raises:
            NonFiniteLogitsError: A row cannot be sampled from.
            ConfigurationError: The history is needed and not given.
        """
        scores = self._processed(logits, history)
        if penalties is not None:
            scores = scores - penalties.to(scores)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        many = (uniforms if uniforms.dim() == 2 else uniforms.unsqueeze(1)).to(scores.device)
        if self.temperature == 0:
            drawn = self._greedy(scores, many, unseen)
        else:
            drawn = self._drawn(self._tempered(scores), many, unseen)
        return drawn.view(uniforms.shape)  # type: ignore[return-value]

    def _processed(self, logits: Tensor, history: Sequence[Sequence[int]] | None) -> Tensor:
        """Scores in float32 after transformers' processors, which take rectangles: rows of one length at a time."""
        scores = logits.float()
        if not self.reads_history:
            return scores
        if history is None:
            raise ConfigurationError(
                "Logits processors and the repetition penalty read the tokens so far; pass history."
            )
        steps = list(self.processors)
        if self.repetition_penalty != 1.0:
            steps.insert(0, RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        scores = scores.clone()
        for length in {len(ids) for ids in history}:
            rows = [row for row, ids in enumerate(history) if len(ids) == length]
            ids = torch.tensor([list(history[row]) for row in rows], device=scores.device)
            changed = scores[rows]
            for step in steps:
                changed = _changed(step, ids, changed)
            scores[rows] = changed
        return scores

    def _tempered(self, scores: Tensor) -> Tensor:
        """Scores over the temperature; the best is moved to 0 first, so that no temperature makes it overflow."""
        if self.temperature == 1:
            return scores
        return (scores - scores.amax(dim=-1, keepdim=True)) / self.temperature

    def _greedy(self, scores: Tensor, uniforms: Tensor, unseen: list[Tensor] | None) -> Tensor:
        best = scores.max(dim=-1, keepdim=True)  # NaN counts as the largest
        _checked(best.values, unseen)
        return best.indices.expand_as(uniforms).contiguous()

    def _drawn(self, scores: Tensor, uniforms: Tensor, unseen: list[Tensor] | None) -> Tensor:
        if 0 < self.top_k < scores.shape[-1]:
            scores, ids = scores.topk(self.top_k, dim=-1)
            masses = self._likely(scores.softmax(dim=-1))
            if self.top_p < 1:
                masses = _nucleus(masses, self.top_p)
            return ids.gather(-1, _inverse_cdf(masses, uniforms, unseen))
        masses = self._likely(scores.softmax(dim=-1))
        if self.top_p == 1:
            return _inverse_cdf(masses, uniforms, unseen)
        return self._drawn_in_nucleus(masses, uniforms)

    def _likely(self, masses: Tensor) -> Tensor:
        """Zero where min-p forbids; what stays keeps its mass, so that top-p means the same before and after."""
        if self.min_p == 0:
            return masses
        least = self.min_p * masses.amax(dim=-1, keepdim=True)
        # Zero where masses < least, in a fifth of masked_fill's time: no quotient of a smaller one rounds to 1.
        return F.threshold(masses / least, ALMOST_ONE, 0.0) * least

    def _drawn_in_nucleus(self, masses: Tensor, uniforms: Tensor) -> Tensor:
        """Look for each row's nucleus among its few most likely tokens; sort all only for rows that exceed them."""
        _checked(masses[:, :1], None)  # a row with any NaN or +inf is NaN throughout
        drawn = torch.zeros_like(uniforms, dtype=torch.long)
        rows = torch.arange(len(masses), device=masses.device)
        for size in (*NUCLEUS_GUESSES, masses.shape[-1]):
            top, ids = masses[rows].topk(min(size, masses.shape[-1]), dim=-1)
            drawn[rows] = ids.gather(-1, _inverse_cdf(_nucleus(top, self.top_p), uniforms[rows]))
            rows = rows[(top.sum(dim=-1) < self.top_p) & (top[:, -1] > 0)]
            if len(rows) == 0:
                break
        return drawn


def _changed(processor: LogitsProcessor, ids: Tensor, scores: Tensor) -> Tensor:
    """Scores (R, V) after a processor, which may be anybody's code.

    Raises:
        LogitsProcessorError: It raised, or returned something else than scores for the tokens.
    """
    name = type(processor).__name__
    try:
        found = processor(ids, scores)
    except (InferenceGuardError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # The exception's own text may quote the prompt, so only its type is named here.
        raise LogitsProcessorError(
            f"logits processor {name} raised {type(error).__name__}; see the cause above"
        ) from error
    if not isinstance(found, Tensor) or found.shape != scores.shape or not found.is_floating_point():
        shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise LogitsProcessorError(
            f"logits processor {name} returned {shown}; it must return scores of shape {tuple(scores.shape)}"
        )
    return found


def _nucleus(masses: Tensor, top_p: float) -> Tensor:
    """Zero what lies behind the smallest set of at least ``top_p``; descending masses (R, m)."""
    return masses.masked_fill(masses.cumsum(dim=-1) - masses >= top_p, 0.0)


def _inverse_cdf(masses: Tensor, uniforms: Tensor, unseen: list[Tensor] | None = None) -> Tensor:
    """Indices (R, n) at which the cumulated masses (R, m), not necessarily normalised, pass the uniforms (R, n).

    A number close to 1 never reaches a token of no mass: the target stays strictly below the total, and the first
    cumulated mass above it is one that a positive mass has raised.
    """
    cumulated = masses.cumsum(dim=-1)
    total = cumulated[:, -1:].contiguous()
    _checked(total, unseen)
    target = (uniforms.to(torch.float64) * total).float()
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulated, target, right=True)
    return found if unseen is None else found.clamp(max=masses.shape[-1] - 1)  # NaN is passed by nothing


def _checked(values: Tensor, unseen: list[Tensor] | None) -> None:
    """Whether values are finite: looked at now, or left to the caller."""
    finite = values.isfinite().all()
    if unseen is not None:
        unseen.append(finite)
    elif not bool(finite):
        raise NonFiniteLogitsError
