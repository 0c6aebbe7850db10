"""Models with quantised layers: how far their own states move when nothing that they may look at has changed.

Some of them round what goes into a layer by what else is in the same forward (bitsandbytes' 8 bits, torch's dynamic
quantisation). The plain forward of a text then differs from the plain forward of the same text with tokens behind it,
and no way to decode can give "the" states; ordinary decoding with a cache, as transformers' ``generate`` does it, is as
right as any.
"""

import torch
from torch import nn

from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.numerics import difference

TEXTS, LENGTH, MORE = 4, 8, 5
MARGIN = 3.0  # the noise is measured on a few texts, and the worst of others is larger
LEAST = 5e-3  # kernels for one token and for many sum the dequantised weights in another order (4 bits: 1.1e-3 seen)
MOST = 0.3  # of a state's norm; a token seen or missed changes states by more


def has_quantised_layers(model: nn.Module) -> bool:
    """Whether some linear layer holds no floating-point weight."""
    return bool(getattr(model, "is_quantized", False)) or any(
        hasattr(module, "in_features") and not _is_float(getattr(module, "weight", None)) for module in model.modules()
    )


@torch.inference_mode()
def own_tolerance(body: Body) -> float:
    """What may differ on a path that decodes as ``generate`` does: a multiple of the model's own noise."""
    random = torch.Generator().manual_seed(1)
    vocabulary = body.model.get_input_embeddings().weight.shape[0]
    worst = 0.0
    for _ in range(TEXTS):
        ids = torch.randint(vocabulary, (1, LENGTH + MORE), generator=random).to(body.device)
        followed = body.reference(ids)
        for length in (1, LENGTH):  # one token alone takes other kernels, with 4 bits
            for mine, theirs in zip(body.reference(ids[:, :length]), followed, strict=True):
                if mine is not None and theirs is not None:
                    worst = max(worst, difference(theirs[0, length - 1], mine[0, -1]))
    return min(max(MARGIN * worst, LEAST), MOST)


def _is_float(weight: object) -> bool:
    return isinstance(weight, torch.Tensor) and weight.is_floating_point()
