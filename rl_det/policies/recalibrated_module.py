"""The last step of the modules beside a head: each class's logits are scaled and shifted, so that they are calibrated."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RecalibratedModule(nn.Module):
    """A module whose logits end as scale * logits + shift; the order within a class does not change.

    Both have one number for each class, and are the identity until a recalibration is fitted.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(num_classes))
        self.register_buffer("shift", torch.zeros(num_classes))

    def recalibrated(self, logits: Float[Tensor, "B N"], column: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The logits of candidates of these classes, 0..C - 1."""
        return self.scale[column] * logits + self.shift[column]

    @torch.no_grad()
    def recalibrate(self, scale: Float[Tensor, " C"], shift: Float[Tensor, " C"]) -> None:
        """Scale and shift what the module gives now."""
        self.scale.mul_(scale)
        self.shift.mul_(scale).add_(shift)
