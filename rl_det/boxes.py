"""Compute the move from one box to another, and apply it: what torchvision.ops lacks."""

import torch
from jaxtyping import Float
from torch import Tensor

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""torchvision's weights: a move of 1 is a tenth of a side for the centre, and a fifth for the logarithm of a side."""
THIN = 1e-6
"""The least length of a side in these computations, in the coordinates' unit."""


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
