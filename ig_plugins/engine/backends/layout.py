"""What the forwards of one packing share on the segments backend."""

from dataclasses import dataclass

from torch import Tensor

from ig_plugins.engine.forward.attention import Grouping, Part
from ig_plugins.engine.tree import Packing


@dataclass
class Layout:
    """How packed tokens are laid out; steps of a block are mostly packed alike.

    Attributes:
        packing: Which tokens of which lanes.
        order: The tokens sorted by row, beam and place, so that those that share keys stand together; shape (M,) on the
            device, or a slice where they stand so already.
        inverse: Where each token went, likewise.
        shared: How they read what is committed.
        places: Place of each sorted token's lane in the lanes' segment, shape (M,).
        groups: The places that are read.
        own: Sorted tokens to those.
        slots: Slots of the sorted tokens in their lanes, shape (M,).
        strides: By how much they grow from one forward of this packing to the next, shape (M,).
        depths: Positions of the sorted tokens in the text, shape (M,), on the device.
        advance: By how much those grow.
        alike: Whether every lane has the same slot, a token each, at all of these forwards.
        kept: Sorted places of the tokens whose logits are wanted, on the device; None until asked for.
    """

    packing: Packing
    order: Tensor | slice
    inverse: Tensor | slice
    shared: tuple[Part, ...]
    places: Tensor
    groups: slice
    own: Grouping
    slots: Tensor
    strides: Tensor
    depths: Tensor
    advance: Tensor
    alike: bool
    kept: Tensor | None = None

    def keep(self, tokens: Tensor) -> None:
        """Want the logits of these tokens, shape (n,), as they were before they were sorted."""
        tokens = tokens.to(self.depths.device)
        self.kept = tokens if isinstance(self.inverse, slice) else self.inverse[tokens]
