"""Linear layers multiplied in few calls and, on CPU, with weights arranged for the few rows of a decoding step.

Layers that read the same input are multiplied at once. A step multiplies a handful of lanes with every weight, and
torch re-arranges large weights at every call; oneDNN needs up to half of that time less on weights arranged once. Both
take copies of the weights. The model is not changed: its layers use the copies only while a forward of the engine runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 2**18  # weights of a product from which oneDNN's call is worth it (measured at 1 to 64 rows)
LIMIT = 2**30  # bytes; the copies are as large as the layers, so a model beyond this stays as it is
ROWS = 16  # that the arrangement is made for; measured to be as good from 4 to 512


class Product:
    """The outputs of linear layers that read the same input, side by side.

    Args:
        layers: Nothing but plain linear layers.
        copied: Whether copies of the weights may be held.
    """

    def __init__(self, *layers: nn.Linear, copied: bool) -> None:
        self.layers, self.copied = layers, copied
        self._print: Tensor | None = None
        self._joined: Tensor | None = None
        self._packed: Tensor | None = None
        self._bias: Tensor | None = None

    @torch.inference_mode()
    def refresh(self) -> None:
        """Copy the weights if they are new or have changed, as they do where an adapter is merged."""
        if not self.copied or not all(_copyable(layer) for layer in self.layers):
            self._print = self._joined = self._packed = None
            return
        # A product with fixed random numbers tells any change that the layers' own outputs could tell; the version
        # counter of a tensor does not see writes through `.data`.
        found = torch.cat([layer.weight @ _probe(layer.in_features) for layer in self.layers])
        biased = any(layer.bias is not None for layer in self.layers)
        bias = torch.cat([_bias(layer) for layer in self.layers]) if biased else None
        if bias is not None:
            found = torch.cat([found, bias])
        if self._print is not None and torch.equal(found, self._print):
            return
        weights = [layer.weight for layer in self.layers]
        large = sum(weight.numel() for weight in weights) >= SMALLEST and _can_pack()
        joined = torch.cat(weights) if len(weights) > 1 else weights[0]
        self._print = found
        self._bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(joined, ROWS) if large else None
        self._joined = joined if len(weights) > 1 and not large else None

    def __call__(self, input: Tensor) -> Tensor:
        """Multiply rows (R, in): (R, sum of the layers' outs)."""
        if self._packed is not None and input.dtype == torch.float32 and input.numel():
            return torch.ops.mkldnn._linear_pointwise(input, self._packed, self._bias, "none", [], "")  # type: ignore[no-any-return]
        if self._joined is not None and input.dtype == torch.float32:
            return F.linear(input, self._joined, self._bias)
        outputs = [F.linear(input, layer.weight, layer.bias) for layer in self.layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


class PrepackedLinears:
    """Linear layers of a model, each of which multiplies with a packed copy where that is faster."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        layers = [layer for layer in modules if is_plain(layer) and _copyable(layer)]
        layers = [layer for layer in layers if layer.weight.numel() >= SMALLEST and _can_pack()]
        copied = within_limit(layers)
        self._products = [Product(layer, copied=True) for layer in layers] if copied else []

    def refresh(self) -> None:
        """Pack the layers whose weights are new or have changed."""
        for product in self._products:
            product.refresh()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the layers multiply with their copies."""
        mine = [] if torch.is_grad_enabled() else [each for each in self._products if is_untouched(each.layers[0])]
        for product in mine:
            vars(product.layers[0])["forward"] = product.__call__
        try:
            yield
        finally:
            for product in mine:
                vars(product.layers[0]).pop("forward", None)


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is torch's own linear layer with a weight of its own, as quantised and adapted layers are not."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and is_untouched(module)


def is_untouched(module: nn.Module) -> bool:
    """Whether nobody watches or replaces this module's forward."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def within_limit(layers: Sequence[nn.Linear]) -> bool:
    """Whether copies of these layers are small enough to be made."""
    return sum(layer.weight.nbytes for layer in layers) <= LIMIT


@cache
def _probe(width: int) -> Tensor:
    """The same random numbers for every layer of this width."""
    return torch.randn(width, generator=torch.Generator().manual_seed(0))


def _copyable(layer: nn.Linear) -> bool:
    return (layer.weight.device.type, layer.weight.dtype) == ("cpu", torch.float32)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


def _can_pack() -> bool:
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
