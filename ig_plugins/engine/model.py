"""A Hugging Face model that follows a token tree."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from ig_plugins.engine.body import Body
from ig_plugins.engine.drafts import Drafts
from ig_plugins.engine.exact import tolerance
from ig_plugins.engine.graphs import StepRecorder
from ig_plugins.engine.masked import MaskedPath
from ig_plugins.engine.path import Path, Sizes
from ig_plugins.engine.portable import PortablePath
from ig_plugins.engine.quantised import has_quantised_layers, own_tolerance
from ig_plugins.engine.segments import SegmentsPath
from ig_plugins.engine.selftest import prove
from ig_plugins.engine.session import TreeSession
from ig_plugins.errors import ConfigurationError, ModelLoadError, PromptError, UnsupportedModelError

logger = logging.getLogger(__name__)

PathName = Literal["auto", "segments", "masked", "portable"]
# In the order of preference. No rule by size between the first two: their processor time was the same within 2 % (16
# lanes on prompts of 512 and 2048, 64 lanes on 512), while segments allocate less (36 MB for 46 at 64 lanes) and run
# no padding where lanes or rows have ended.
PATHS: dict[str, type[Path]] = {path.name: path for path in (SegmentsPath, MaskedPath, PortablePath)}


class TreeModel:
    """A model, and the way in which it was shown to follow a tree exactly. Made by ``attach``.

    Attributes:
        body: The model.
        drafts: What it said before, to guess at what it says next.
        recorder: Records its decoding steps; None where there are no graphs to record into.
    """

    def __init__(self, body: Body, path: type[Path]) -> None:
        self.body = body
        self.drafts = Drafts()
        self.recorder = StepRecorder.of(body.model)
        self._path = path

    @classmethod
    def attach(cls, model: PreTrainedModel, *, path: PathName = "auto") -> "TreeModel":
        """Find the fastest path that gives this model the states of its plain full forward.

        The model is put into evaluation mode. On the segments path its attention becomes one that reads segments while
        a tree is followed and is sdpa otherwise, so that it generates as before.

        Args:
            model: A causal language model, or a bare body, which then has hidden states and no logits.
            path: ``auto``, or the one path to use if it passes the self-test.

        Raises:
            UnsupportedModelError: No path is exact; the message names the family and what each path failed at.
            ModelLoadError: The model's own forward is not finite.
            ConfigurationError: An unknown path.
        """
        if path != "auto" and path not in PATHS:
            raise ConfigurationError(f"path is {path!r}; choose one of {['auto', *PATHS]}.")
        model.eval()
        body = Body(model)
        body.refresh()
        refused = {}
        for candidate in PATHS.values() if path == "auto" else [PATHS[path]]:
            refused[candidate.name] = _refusal(body, candidate)
            if refused[candidate.name] is None:
                return cls(body, candidate)
        raise UnsupportedModelError(
            f"The model family {model.config.model_type!r} ({type(model).__name__}) cannot be decoded exactly: "
            + "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            + ". Use a decoder-only family such as llama, qwen3, mistral or gemma3."
        )

    @property
    def path(self) -> str:
        """The name of the path in use."""
        return self._path.name

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
        """Positions that the model has, or None if it does not say."""
        return _context(self.body)

    @property
    def device(self) -> torch.device:
        """Where the model takes its ids."""
        return self.body.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.body.model.dtype  # type: ignore[no-any-return]

    def plant(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> TreeSession:
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
        return TreeSession(self, self._path(self.body, Sizes(lanes, block, max_new)), prompts, max_new=max_new)


def _context(body: Body) -> int | None:
    return getattr(body.config, "max_position_embeddings", None)


def _window(body: Body) -> int | None:
    """The shortest distance at which some layer stops to look back."""
    spans = (getattr(body.config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((span for span in spans if span), default=None)


def _refusal(body: Body, path: type[Path]) -> str | None:
    """Why a path cannot follow this model's trees, or None if it passed the self-test."""
    implementation = body.model.config._attn_implementation
    try:
        path.prepare(body)
        prove(body, path, window=_window(body), context=_context(body), allowed=_allowed(body, path))
    except (ModelLoadError, torch.OutOfMemoryError):
        raise
    except Exception as reason:  # whatever a model raises on inputs that it cannot take: the next path may do
        logger.debug("%s is not followed on the %s path", type(body.model).__name__, path.name, exc_info=True)
        if body.model.config._attn_implementation != implementation:
            body.model.set_attn_implementation(implementation)
        return f"{type(reason).__name__}: {reason}"
    return None


def _allowed(body: Body, path: type[Path]) -> float | None:
    """The tolerance, where the dtype's is too strict: of ordinary caches on quantised layers."""
    if path is not PortablePath or not has_quantised_layers(body.model):
        return None
    return max(tolerance(body.model.dtype), own_tolerance(body))
