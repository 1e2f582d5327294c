"""Ranked candidates and how far they overlap -> whom hard non-maximum suppression leaves, as torchvision decides it.

A candidate goes if it overlaps a survivor of its class by more than `nms_iou`. There is one walk, whether the overlaps are
tabulated or computed as they are asked for; see `suppress`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.ap.compiled import compilable, compiled
from rl_det.ap.sorting import SortRoom, room_for_sort, sort_falling
from rl_det.ap.threads import kept, share_out

LOWEST = np.finfo(np.float64).min


@compilable
def suppression_iou(box: Any, other: Any) -> Any:
    """In float32, as torchvision's NMS computes it; 0 for two boxes without area."""
    width = max(np.float32(0), min(box[2], other[2]) - max(box[0], other[0]))
    height = max(np.float32(0), min(box[3], other[3]) - max(box[1], other[1]))
    shared = width * height
    union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 else np.float32(0)


@compilable
def suppress(
    order: Any, first: int, count: int, boxes: Any, labels: Any, nms_iou: float, survivors: Any, kept: int
) -> int:
    """Suppress order[first:count], given that `kept` of those before survive; returns how many do in all.

    Where `labels` is None, `boxes` is a table [N, N] of overlaps, 0 between classes.
    """
    for position in range(first, count):
        i = order[position]
        if not suppressed(i, boxes, labels, nms_iou, survivors, kept):
            survivors[kept] = i
            kept += 1
    return kept


@compilable
def suppressed(i: int, boxes: Any, labels: Any, nms_iou: float, survivors: Any, kept: int) -> bool:
    """Whether one of the first `kept` survivors suppresses the candidate."""
    for k in range(kept):
        j = survivors[k]
        if labels is None:  # decided when numba compiles, not when it runs
            iou = boxes[i, j]
        elif labels[i] == labels[j]:
            iou = suppression_iou(boxes[i], boxes[j])
        else:
            continue
        if iou > nms_iou:
            return True
    return False


@compilable
def suppress_image(
    boxes: Any, labels: Any, scores: Any, mask: Any, least: float, nms_iou: float, survivors: Any, sort: Any
) -> int:
    """Write whom NMS leaves, by falling score, ties by the lower index; returns how many. Scores below `least` are out.

    `sort` is scratch memory.
    """
    count = 0
    for i in range(len(scores)):
        if mask[i] and not scores[i] < least:
            sort.scores[count], sort.order[count] = scores[i], i
            count += 1
    sort_falling(sort, count)
    kept: int = suppress(sort.order, 0, count, boxes, labels, nms_iou, survivors, 0)
    return kept


def hard_nms(
    boxes: Float32[np.ndarray, "R N 4"],
    labels: Int64[np.ndarray, "R N"],
    mask: Bool[np.ndarray, "R N"],
    scores: Float64[np.ndarray, "R N"],
    nms_iou: float,
) -> Bool[np.ndarray, "R N"]:
    """Whom NMS leaves in each of R images; a score of -inf takes a candidate out."""
    kept = np.zeros(mask.shape, dtype=np.bool_)
    share_out(_hard_nms, len(mask), lambda: room_for_nms(mask.shape[1]), boxes, labels, mask, scores, nms_iou, kept)
    return kept


class NmsRoom(NamedTuple):
    """Room for the survivors of one image, and to sort its candidates."""

    survivors: np.ndarray  # [N]
    sort: SortRoom


@kept
def room_for_nms(num_candidates: int) -> NmsRoom:
    """Empty `NmsRoom`."""
    return NmsRoom(np.zeros(num_candidates, dtype=np.int64), room_for_sort(num_candidates))


@compiled
def _hard_nms(
    first: int, end: int, room: Any, boxes: Any, labels: Any, mask: Any, scores: Any, nms_iou: float, kept: Any
) -> None:
    """`hard_nms` for a slice of the images."""
    survivors, sort = room
    for r in range(first, end):
        count = suppress_image(boxes[r], labels[r], scores[r], mask[r], LOWEST, nms_iou, survivors, sort)
        for k in range(count):
            kept[r, survivors[k]] = True
