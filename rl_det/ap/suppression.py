"""Ranked candidates and how far they overlap -> whom hard non-maximum suppression leaves, as torchvision decides it.

A candidate goes if it overlaps a survivor of its class by more than `nms_iou`. There is one walk, whether the overlaps are
tabulated or computed as they are asked for; see `suppress`.
"""

from typing import Any

import numpy as np
from numba import prange

from rl_det.ap.compiled import compiled, compiled_in_parallel

LOWEST = np.finfo(np.float64).min


@compiled
def suppression_iou(box: Any, other: Any) -> Any:
    """In float32, as torchvision's NMS computes it; 0 for two boxes without area."""
    width = max(np.float32(0), min(box[2], other[2]) - max(box[0], other[0]))
    height = max(np.float32(0), min(box[3], other[3]) - max(box[1], other[1]))
    shared = width * height
    union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 else np.float32(0)


@compiled
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


@compiled
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


@compiled
def suppress_image(
    boxes: Any, labels: Any, scores: Any, mask: Any, least: float, nms_iou: float, survivors: Any
) -> int:
    """Write whom NMS leaves, by falling score, ties by the lower index; returns how many. Scores below `least` are out."""
    order, count = np.argsort(-scores, kind="mergesort"), 0
    for i in order:
        if mask[i] and not scores[i] < least:
            order[count] = i
            count += 1
    kept: int = suppress(order, 0, count, boxes, labels, nms_iou, survivors, 0)
    return kept


@compiled_in_parallel
def hard_nms(boxes: Any, labels: Any, mask: Any, scores: Any, nms_iou: float) -> Any:
    """Whom NMS leaves in each of R images, bool [R, N]; a score of -inf takes a candidate out."""
    num_images, num_candidates = labels.shape
    kept = np.zeros((num_images, num_candidates), dtype=np.bool_)
    for r in prange(num_images):
        survivors = np.zeros(num_candidates, dtype=np.int64)
        for k in range(suppress_image(boxes[r], labels[r], scores[r], mask[r], LOWEST, nms_iou, survivors)):
            kept[r, survivors[k]] = True
    return kept
