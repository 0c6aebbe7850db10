"""A Hugging Face model that follows a token tree."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from critic_models.lengths import context_of
from ig_plugins.engine.backends.base import Sizes, TreeBackend
from ig_plugins.engine.backends.per_sequence import PerSequenceBackend
from ig_plugins.engine.backends.quantised import has_quantised_layers, own_tolerance
from ig_plugins.engine.backends.segmented import SegmentedBackend
from ig_plugins.engine.backends.selftest import prove
from ig_plugins.engine.backends.tree_mask import TreeMaskBackend
from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.numerics import tolerance
from ig_plugins.engine.sampling import SamplingSession
from ig_plugins.engine.speedups.cuda_graphs import StepRecorder
from ig_plugins.engine.speedups.ngram_draft import NgramDrafts
from ig_plugins.errors import ConfigurationError, ModelLoadError, PromptError, UnsupportedModelError

logger = logging.getLogger(__name__)

BackendName = Literal["auto", "segments", "masked", "portable"]
# In the order of preference. No rule by size between the first two: their processor time was the same within 2 % (16
# lanes on prompts of 512 and 2048, 64 lanes on 512), while segments allocate less (36 MB for 46 at 64 lanes) and run
# no padding where lanes or rows have ended.
BACKENDS: dict[str, type[TreeBackend]] = {
    backend.name: backend for backend in (SegmentedBackend, TreeMaskBackend, PerSequenceBackend)
}


class TreeModel:
    """A model, and the way in which it was shown to follow a tree exactly. Made by ``attach``.

    Attributes:
        body: The model.
        drafts: The n-grams that it sampled before, to draft what it samples next.
        recorder: Records its decoding steps; None where there are no graphs to record into.
    """

    def __init__(self, body: Body, backend: type[TreeBackend], limit: tuple[int, str] | None = None) -> None:
        self.body = body
        self.drafts = NgramDrafts()
        self.recorder = StepRecorder.of(body.model)
        self._backend, self._limit = backend, limit

    @classmethod
    def attach(cls, model: PreTrainedModel, *, backend: BackendName = "auto") -> "TreeModel":
        """Find the fastest backend that gives this model the states of its plain full forward.

        The model is put into evaluation mode. On the segments backend its attention becomes one that reads segments
        while a tree is followed and is sdpa otherwise, so that it generates as before. Where the model computes
        otherwise beyond a length, as with longrope, and no backend could follow it there, ``context`` ends there.

        Args:
            model: A causal language model, or a bare body, which then has hidden states and no logits.
            backend: ``auto``, or the one backend to use if it passes the self-test.

        Raises:
            UnsupportedModelError: No backend is exact; the message names the family and what each backend failed at.
            ModelLoadError: The model's own forward is not finite.
            ConfigurationError: An unknown backend.
        """
        if backend != "auto" and backend not in BACKENDS:
            raise ConfigurationError(f"backend is {backend!r}; choose one of {['auto', *BACKENDS]}.")
        model.eval()
        body = Body(model)
        body.refresh()
        refused = {}
        for candidate in BACKENDS.values() if backend == "auto" else [BACKENDS[backend]]:
            shown = _shown(body, candidate)
            if not isinstance(shown, str):
                return cls(body, candidate, shown)
            refused[candidate.name] = shown
        raise UnsupportedModelError(
            f"The model family {model.config.model_type!r} ({type(model).__name__}) cannot be decoded exactly: "
            + "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            + ". Use a decoder-only family such as llama, qwen3, mistral or gemma3."
        )

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.name

    @property
    def hidden_size(self) -> int:
        """H, the width of the hidden states."""
        return int(self.body.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """V, the number of logits; for a bare body, of its embeddings."""
        embeddings = self.body.model.get_output_embeddings() if self.body.has_logits else None
        return int((embeddings or self.body.model.get_input_embeddings()).weight.shape[0])

    @property
    def context(self) -> int | None:
        """Positions that the model has and that are followed exactly, or None if it does not say."""
        context = context_of(self.body.config)
        lengths = [length for length in (context, self._limit and self._limit[0]) if length is not None]
        return min(lengths, default=None)

    @property
    def context_note(self) -> str:
        """Why the context ends where it does, if that is not the model's own end; starts with a space."""
        if self._limit is None:
            return ""
        length, name = self._limit
        return (
            f" ({name} is {length}: beyond it the model's rotary embeddings change, and with them the states of all "
            "tokens before, so that they could not be followed exactly)"
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.body.model.dtype  # type: ignore[no-any-return]

    def prefill(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> SamplingSession:
        """Prefill prompts of any lengths and start a tree for each.

        Args:
            prompts: Token ids of B prompts.
            lanes: Lanes that a block will have, at most.
            block: Tokens that a lane will grow in a block.
            max_new: Tokens of the longest answer; with it the prompts must fit the context.

        Raises:
            PromptError: No prompt, an empty one, or one too long for the context.
        """
        if not prompts:
            raise PromptError("There is no prompt; give at least one.")
        self.body.refresh()
        return SamplingSession(self, self._backend(self.body, Sizes(lanes, block, max_new)), prompts, max_new=max_new)


def _shown(body: Body, backend: type[TreeBackend]) -> tuple[int, str] | str | None:
    """What the self-test shows, see `prove`; or why a backend cannot follow this model's trees."""
    implementation = body.model.config._attn_implementation
    try:
        backend.prepare(body)
        return prove(body, backend, allowed=_allowed(body, backend))
    except (ModelLoadError, torch.OutOfMemoryError):
        raise
    except Exception as reason:  # whatever a model raises on inputs that it cannot take: the next backend may do
        logger.debug("%s is not followed on the %s path", type(body.model).__name__, backend.name, exc_info=True)
        if body.model.config._attn_implementation != implementation:
            body.model.set_attn_implementation(implementation)
        return f"{type(reason).__name__}: {reason}"


def _allowed(body: Body, backend: type[TreeBackend]) -> float | None:
    """The tolerance, where the dtype's is too strict: of ordinary caches on quantised layers."""
    if backend is not PerSequenceBackend or not has_quantised_layers(body.model):
        return None
    return max(tolerance(body.model.dtype), own_tolerance(body))
