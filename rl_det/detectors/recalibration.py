"""Fold a recalibration of logits into the last layer of a classification: a scale and a shift for each class."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

PerClass = float | Float[Tensor, " C"]
"""One number for all classes, or one for each."""


@torch.no_grad()
def fold(
    layer: nn.Linear | nn.Conv2d,
    scale: PerClass,
    shift: PerClass,
    *,
    columns: int,
    classes: slice,
    background: int | None = None,
) -> None:
    """Fold logits -> scale * logits + shift, with positive scales, into a layer that gives `columns` scores an anchor.

    `classes` are the columns of the classes; others stay as they are. Without a background, the scores are logits of
    sigmoids, and the map is exact. With one, they are of a softmax: each class's distance from the background's score is
    scaled and shifted, which is exact where one class competes with the background.
    """
    assert layer.bias is not None
    weights, biases = layer.weight.view(-1, columns, layer.weight[0].numel()), layer.bias.view(-1, columns, 1)
    factor, added = (one_per_class(value, biases[0, classes, 0])[:, None] for value in (scale, shift))
    for values in (weights, biases):
        own = values[:, classes]
        least = 0.0 if background is None else values[:, [background]]
        own.copy_(factor * (own - least) + least)
    biases[:, classes] += added


def one_per_class(value: PerClass, like: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """The number for each class, as a tensor like `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(like.shape)


def mean_of(value: PerClass) -> float:
    """The mean over classes, for what all classes share."""
    return float(torch.as_tensor(value).mean())
