"""Areas, overlaps and moves of boxes (x1, y1, x2, y2), in pixels or relative to the image."""

import torch
from jaxtyping import Float
from torch import Tensor

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""torchvision's weights: a move of 1 is a tenth of a side for the centre, and a fifth for the logarithm of a side."""
THIN = 1e-6
"""The least length of a side in `move_between`, in the coordinates' unit."""


def area(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape"]:
    """The area of each box, in the coordinates' unit squared; negative where one side alone is inside out."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def intersection(boxes: Float[Tensor, "*some 4"], others: Float[Tensor, "*others 4"]) -> Float[Tensor, "*pairs"]:
    """The area that each box shares with its partner. Shapes are broadcast: [N, 1, 4] and [G, 4] give all pairs [N, G]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    other_x1, other_y1, other_x2, other_y2 = others.unbind(-1)
    width = (x2.minimum(other_x2) - x1.maximum(other_x1)).clamp(min=0)
    height = (y2.minimum(other_y2) - y1.maximum(other_y1)).clamp(min=0)
    return width * height


def iou(boxes: Float[Tensor, "*some 4"], others: Float[Tensor, "*others 4"]) -> Float[Tensor, "*pairs"]:
    """Intersection over union of each box and its partner, in [0, 1]; 0 where the union is empty. Shapes are broadcast."""
    shared = intersection(boxes, others)
    union = area(boxes) + area(others) - shared
    return shared / union.masked_fill(union <= 0, 1.0)


def move_between(boxes: Float[Tensor, "*shape 4"], others: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """The moves from `boxes` to `others`: centre x and y in tenths of a side, log width and height in fifths; with gradient."""
    side, other_side = ((b[..., 2:] - b[..., :2]).clamp(min=THIN) for b in (boxes, others))
    centre, other_centre = ((b[..., 2:] + b[..., :2]) / 2 for b in (boxes, others))
    move = torch.cat([(other_centre - centre) / side, (other_side / side).log()], -1)
    return move * move.new_tensor(WEIGHTS)


def moved(boxes: Float[Tensor, "*shape 4"], move: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """The boxes after the moves: the inverse of `move_between`."""
    centre_move, log_scale = (move / move.new_tensor(WEIGHTS)).split(2, -1)
    side = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2 + centre_move * side
    half = side * log_scale.exp() / 2
    return torch.cat([centre - half, centre + half], -1)
