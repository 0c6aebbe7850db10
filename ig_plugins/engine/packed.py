"""Linear layers packed for the few rows of a decoding step, on CPU.

A step multiplies a handful of lanes with every weight, and torch re-arranges the weights at every call. oneDNN
needs 0.45-0.65 of the time on weights arranged once (16 rows, widths 512 to 8192, float32, an AMD CPU). The model is
not changed: its layers use the packed copies only while a forward of the engine runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeGuard

import torch
from torch import Tensor, nn

SMALLEST = 2**16  # weights of a layer from which the product is worth the other library's call
LIMIT = 2**30  # bytes; the copies are as large as the layers, so a model beyond this stays as it is
ROWS = 16  # that the arrangement is made for; measured to be as good from 4 to 512


class PackedLinears:
    """The packed copies of a model's linear layers."""

    def __init__(self, model: nn.Module) -> None:
        layers = [_PackedLinear(module) for module in model.modules() if _packable(module)]
        size = sum(layer.linear.weight.nbytes for layer in layers)
        self._layers = layers if size <= LIMIT else []

    def refresh(self) -> None:
        """Pack the layers whose weights are new or have changed, as they do where an adapter is merged."""
        for layer in self._layers:
            layer.refresh()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the layers multiply with their copies."""
        mine = [] if torch.is_grad_enabled() else [each for each in self._layers if "forward" not in vars(each.linear)]
        for layer in mine:
            vars(layer.linear)["forward"] = layer.forward
        try:
            yield
        finally:
            for layer in mine:
                vars(layer.linear).pop("forward", None)


class _PackedLinear:
    """One layer; ``packed`` is None while its weights cannot be packed."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        self.packed: Tensor | None = None
        self.print: Tensor | None = None

    @torch.inference_mode()
    def refresh(self) -> None:
        weight = self.linear.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            self.packed = self.print = None
            return
        # A product with fixed random numbers tells any change that the layer's own outputs could tell; the version
        # counter of a tensor does not see writes through `.data`.
        found = weight @ _probe(weight.shape[1])
        if self.print is None or not torch.equal(found, self.print):
            self.print = found
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)

    def forward(self, input: Tensor) -> Tensor:
        """What the layer computes; the argument's name is that of torch's."""
        if self.packed is None or input.dtype != torch.float32 or not input.numel():
            return nn.Linear.forward(self.linear, input)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.linear.bias, "none", [], "")  # type: ignore[no-any-return]


@cache
def _probe(width: int) -> Tensor:
    """The same random numbers for every layer of this width."""
    return torch.randn(width, generator=torch.Generator().manual_seed(0))


def _packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter  # not a quantised one
        and (module.weight.device.type, module.weight.dtype) == ("cpu", torch.float32)
        and module.weight.numel() >= SMALLEST
        and not (module._forward_hooks or module._forward_pre_hooks)
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
