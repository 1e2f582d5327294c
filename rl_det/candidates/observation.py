"""Convert candidates to a policy's observation; the unit of actions; clipping of boxes."""

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_det.types import Candidates, Encoded

SHIFT_OF_ONE = 16.0
"""The logits that an action of 1 adds. Actions are in [-1, 1]; a power of two causes no rounding error."""


def clipped(boxes: Float[Tensor, "B N 4"], sizes: Float[Tensor, "B 2"]) -> Float[Tensor, "B N 4"]:
    """The boxes, clipped to images of these heights and widths."""
    return boxes.clamp(min=0).minimum(sizes[:, None, [1, 0, 1, 0]])


class Observation(TypedDict):
    """Candidates as a policy sees them: boxes relative to the image, in [0, 1]; logits 0 on padding.

    `size` is the image's width, height, width, height in the user's pixels. It converts a head's boxes to relative
    ones. `step`, which environments add, is the number of steps that the episode has made.
    """

    boxes: Float[Tensor, "B N 4"]
    labels: Int[Tensor, "B N"]
    logits: Float[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]
    index: Int[Tensor, "B N"]
    size: Float[Tensor, "B 4"]
    step: NotRequired[Int[Tensor, "B 1"]]


def observe(candidates: Candidates, encoded: Encoded) -> Observation:
    """The observation of these candidates, which must be of these images; it does not depend on the images' sizes."""
    size = encoded.image_size[:, [1, 0, 1, 0]]  # height, width -> x, y, x, y
    return Observation(
        boxes=candidates.boxes / size[:, None],
        labels=candidates.labels,
        logits=candidates.logits.where(candidates.mask, 0.0),
        mask=candidates.mask,
        index=candidates.index,
        size=size,
    )
