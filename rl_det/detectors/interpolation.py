"""Resize an image by two matrix products, which every runtime computes alike.

Interpolation in onnxruntime differs from torch's in the fourth digit, and in the second digit with antialiasing.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Length = Any
"""An int, a number of pixels; where torch traces, it is a tensor without axes."""


def interpolated(
    image: Float[Tensor, "3 _ _"], size: tuple[Length, Length], *, antialias: bool = False
) -> Float[Tensor, "3 _ _"]:
    """The image at this height and width, by torch's bilinear interpolation without aligned corners."""
    rows, columns = (
        shares(before, after, antialias=antialias).to(image.device)
        for before, after in zip(image.shape[1:], size, strict=True)
    )
    return rows @ image @ columns.T


def shares(before: Length, after: Length, *, antialias: bool) -> Float[Tensor, "after before"]:
    """The share of each old place in each new one, along one axis; with `antialias`, as wide as an old pixel or a new one."""
    every, new = torch.arange(before), torch.arange(after) + 0.5
    scale = torch.as_tensor(before).float() / torch.as_tensor(after).float()
    if antialias:
        distance = every + 0.5 - (new * scale)[:, None]
        weight = (1 - distance.abs() / scale.clamp(min=1)).clamp(min=0)
        return weight / weight.sum(1, keepdim=True)
    centre = (new.double() * scale.double() - 0.5).float()  # rounded once, as torch's fused multiply and add
    last = torch.as_tensor(before).float() - 1
    return (1 - (every - centre.clamp(min=0).minimum(last)[:, None]).abs()).clamp(min=0)
