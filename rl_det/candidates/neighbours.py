"""The proposals that overlap each candidate in its class, and so may vote on it; compiled on a CPU, else by tensors.

On a CPU, tensors take five times as long for it as compiled code (22 and 4 ms for 48 images of digit scenes, two of which an
update of PPO needs), as each operation passes over all pairs. A GPU, and a program that is traced, have tensors alone. Both
find the same pairs: each number is rounded alike.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_det.ap.compiled import compiled
from rl_det.ap.threads import share_out
from rl_det.candidates.selection import column_of, proposal_of
from rl_det.candidates.votes import NEIGHBOUR_IOU


def neighbours(
    boxes: Float[Tensor, "B N 4"], index: Int[Tensor, "B N"], all_boxes: Float[Tensor, "B P C 4"]
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Candidate and proposal of each overlapping pair, in the candidate's class; its own proposal always counts.

    Candidates are counted through all images, from 0 to B N - 1, and proposals within an image. All boxes are in one unit:
    pixels, or relative to the image. No gradient flows through them.
    """
    num_classes = all_boxes.shape[2]
    plain = boxes.device.type == "cpu" and boxes.dtype == all_boxes.dtype == torch.float32
    find = overlapping_by_tensors if is_traced() or not plain else overlapping
    near = find(boxes.detach(), column_of(index, num_classes), all_boxes.detach())
    own_proposal = proposal_of(index, num_classes)[..., None]
    near.scatter_(2, own_proposal, torch.ones_like(own_proposal, dtype=torch.bool))  # ONNX knows no scatter of a number
    if find is overlapping:  # as `nonzero`, in half of its time
        place = np.flatnonzero(near.numpy())
        candidate = place // near.shape[2]
        return torch.from_numpy(candidate), torch.from_numpy(place - candidate * near.shape[2])
    row, proposal = near.flatten(0, 1).nonzero(as_tuple=True)
    return row, proposal


def is_traced() -> bool:
    """Whether a program of tensors is being traced, as for an export, and nothing is computed."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def overlapping(
    boxes: Float[Tensor, "B N 4"], columns: Int[Tensor, "B N"], all_boxes: Float[Tensor, "B P C 4"]
) -> Bool[Tensor, "B N P"]:
    """Whether each proposal's box, in the candidate's column of classes, overlaps the candidate; on the host, in float32."""
    near = np.empty((*columns.shape, all_boxes.shape[1]), dtype=np.bool_)
    given = (np.ascontiguousarray(part.numpy()) for part in (boxes, columns, all_boxes))
    share_out(_overlapping, len(near), tuple, *given, near)
    return torch.from_numpy(near)


@compiled
def _overlapping(first: int, end: int, _: Any, boxes: Any, columns: Any, all_boxes: Any, near: Any) -> None:
    """`overlapping` for a slice of the images."""
    for b in range(first, end):
        for i in range(near.shape[1]):
            left, top, right, bottom = boxes[b, i, 0], boxes[b, i, 1], boxes[b, i, 2], boxes[b, i, 3]
            area = (right - left) * (bottom - top)
            for p in range(near.shape[2]):
                other = all_boxes[b, p, columns[b, i]]
                width = max(min(other[2], right) - max(other[0], left), np.float32(0))
                height = max(min(other[3], bottom) - max(other[1], top), np.float32(0))
                shared = width * height
                union = (other[2] - other[0]) * (other[3] - other[1]) + area - shared
                near[b, i, p] = shared > np.float32(NEIGHBOUR_IOU) * union


def overlapping_by_tensors(
    boxes: Float[Tensor, "B N 4"], columns: Int[Tensor, "B N"], all_boxes: Float[Tensor, "B P C 4"]
) -> Bool[Tensor, "B N P"]:
    """The same by operations of tensors, which torch can trace, on any device.

    It is not `rl_det.boxes.iou`, which divides and so rounds otherwise; and here each side of all proposals lies together.
    """
    image = torch.arange(columns.shape[0], device=columns.device)[:, None]
    of_class = all_boxes.permute(0, 2, 3, 1).flatten(
        0, 1
    )  # [B * C, 4, P]: a class's sides, each side's proposals together
    own_class = (image * all_boxes.shape[2] + columns).flatten()
    left, top, right, bottom = of_class.index_select(0, own_class).unflatten(0, columns.shape).unbind(2)
    own_left, own_top, own_right, own_bottom = boxes[..., None, :].unbind(-1)
    width = (right.minimum(own_right) - left.maximum(own_left)).clamp(min=0)
    height = (bottom.minimum(own_bottom) - top.maximum(own_top)).clamp(min=0)
    shared = width * height
    union = (right - left) * (bottom - top) + (own_right - own_left) * (own_bottom - own_top) - shared
    near: Tensor = shared > NEIGHBOUR_IOU * union
    return near
