"""One forward of an unpatched model: hidden states of all tokens, logits of those that are asked for."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ig_plugins.engine.forward.caches import cache_name
from ig_plugins.engine.forward.fused_decoder import FusedDecoder
from ig_plugins.engine.forward.numerics import ordinary_ids
from ig_plugins.engine.forward.prepacked_linear import PrepackedLinears


class Body:
    """A causal language model seen as a body and perhaps a head; also a bare body, which has no logits.

    Attributes:
        model: The model as it was given.
        body: Its transformer; ``last_hidden_state`` is what the LM head reads.
        head: The LM head if calling it gives exactly the model's logits. Some families scale or cap them (cohere,
            granite, gemma2): their head is left alone and the whole model is run.
        config: The configuration of the text model.
        accepts: Names of the arguments of the body's forward.
        cache_name: Which of them is the cache; its output has it under the same name.
        fused: How ``run`` runs the transformer if it is of a family that can be run in fewer calls, else None.
        packed: The weights of the other layers as ``run`` multiplies with them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.body = _decoder(model)
        self.has_logits = self.body is not model and model.get_output_embeddings() is not None
        self.config = self.body.config.get_text_config(decoder=True)
        self.accepts = set(inspect.signature(self.body.forward).parameters)
        self.cache_name = cache_name(self.accepts)
        self._embeddings = model.get_input_embeddings()
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.head = self._direct_head() if self.has_logits else None
        self.fused = FusedDecoder.of(self.body)
        self.packed = PrepackedLinears([model.get_output_embeddings()] if self.fused else model.modules())

    @property
    def device(self) -> torch.device:
        """Where ids go. Asked for many times a step, and the model itself would look through all its modules for it."""
        return self._embeddings.weight.device  # type: ignore[no-any-return]

    def run(
        self, ids: Tensor, *, keep: tuple[Tensor, Tensor] | None, cache: Any = None, **inputs: Any
    ) -> tuple[Tensor, Tensor | None, Any]:
        """Run R sequences of N tokens.

        Args:
            ids: Shape (R, N).
            keep: Row and column, each of shape (n,), of the tokens whose logits are wanted; None for no logits.
            cache: What the model has read of them; None for nothing.
            **inputs: Mask and positions, as the model takes them.

        Returns:
            Hidden states after the final norm (R, N, H); logits (n, V) or None; the model's own output.
        """
        if cache is not None:
            inputs[self.cache_name] = cache
        with self.packed.in_use(), nullcontext() if self.fused is None else self.fused.in_use():
            return self._run(ids, keep, **inputs)

    def refresh(self) -> None:
        """Look again at the weights, of which ``run`` may hold copies; wherever they may have changed."""
        self.packed.refresh()
        if self.fused is not None:
            self.fused.refresh()

    def _run(self, ids: Tensor, keep: tuple[Tensor, Tensor] | None, **inputs: Any) -> tuple[Tensor, Tensor | None, Any]:
        if keep is None or not self.has_logits:
            output = self.body(input_ids=ids, **inputs)
            return output.last_hidden_state, None, output
        if self.head is not None:
            output = self.body(input_ids=ids, **inputs)
            hidden = output.last_hidden_state
            return hidden, self.head(hidden[keep]), output
        if not self._keeps:
            output, hidden = self._whole(ids, **inputs)
            return hidden, output.logits[keep], output
        columns, place = torch.unique(keep[1], return_inverse=True)
        output, hidden = self._whole(ids, logits_to_keep=columns, **inputs)
        return hidden, output.logits[keep[0], place], output

    def reference(
        self, ids: Tensor, positions: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The plain full forward, without any cache: hidden states (R, N, H) and logits (R, N, V) or None.

        Args:
            ids: Shape (R, N).
            positions: Of the tokens, shape (R, N); None for 0, 1, 2, ...
            last: The last token's logits are enough, (R, 1, V) where the model can do that: with a large vocabulary
                the head costs more than all layers.
        """
        inputs: dict[str, Any] = {} if positions is None else {"position_ids": positions}
        if not self.has_logits:
            return self.body(input_ids=ids, use_cache=False, **inputs).last_hidden_state, None
        if last and self._keeps:
            inputs["logits_to_keep"] = 1
        output, hidden = self._whole(ids, use_cache=False, **inputs)
        return hidden, output.logits

    def _whole(self, ids: Tensor, **inputs: Any) -> tuple[Any, Tensor]:
        """Run body and head together; the body's output is read on its way to the head."""
        seen: list[Tensor] = []
        hook = self.body.register_forward_hook(lambda module, args, output: seen.append(output[0]))
        try:
            output = self.model(input_ids=ids, **inputs)
        finally:
            hook.remove()
        return output, seen[0]

    @torch.inference_mode()
    def _direct_head(self) -> Any:
        """The LM head, if it alone gives the model's logits bit for bit."""
        probe = ordinary_ids(4, self._embeddings.weight.shape[0], torch.Generator().manual_seed(0))
        output, hidden = self._whole(torch.tensor([probe], device=self.device), use_cache=False)
        head = self.model.get_output_embeddings()
        return head if torch.equal(head(hidden), output.logits) else None


def _decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The transformer under the head, or the model itself if it is one (llama4 does not say where its own is)."""
    decoder = model.get_decoder()
    return getattr(model, "model", model) if decoder is model else decoder
