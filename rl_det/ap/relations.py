"""Boxes of candidates and truths -> who suppresses whom and who may match whom, as torchvision's NMS and COCO decide it.

Both are decided class by class and do not depend on a score, so they are computed once, and scores may change as often as
they like (`rl_det.ap.candidate_pool`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int64, UInt32
from numba import prange

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import NUM_CHUNKS
from rl_det.ap.options import COCO
from rl_det.ap.preference import box_of, class_truths, count_positives, prefer, room_for_truths, room_for_wishes
from rl_det.ap.suppression import suppression_iou


@dataclass(frozen=True, kw_only=True)
class Relations:
    """What B images' candidates are to each other and to the true boxes.

    `overlap` is the float32 IoU between candidates of one class (0 between classes), on which NMS decides. `partners` are
    the true boxes that a candidate may match, in order of preference (-1 behind the last), `passes` the IoU thresholds at which
    it may, as bits; true boxes are known by their place among the image's, sorted by label. `positives` counts those that
    are no crowd, per class.
    """

    overlap: Float32[np.ndarray, "B N N"]
    partners: Int16[np.ndarray, "B N L"]
    passes: UInt32[np.ndarray, "B N L"]
    crowd: Bool[np.ndarray, "B G"]
    labels: Int64[np.ndarray, "B N"]
    mask: Bool[np.ndarray, "B N"]
    positives: Int64[np.ndarray, "B C"]


def relations(
    boxes: Float32[np.ndarray, "B N 4"],
    labels: Int64[np.ndarray, "B N"],
    mask: Bool[np.ndarray, "B N"],
    truths: TruthBatch,
    *,
    num_classes: int,
) -> Relations:
    """The relations of padded candidates with their images' true boxes, at COCO's thresholds; all areas count.

    Raises ValueError on bad input, naming argument ("detections" are the candidates), image and index.
    """
    candidates = DetectionBatch(boxes=boxes, labels=labels, scores=np.zeros(mask.shape), mask=mask)
    check(candidates, truths, num_classes)
    overlap = _overlap(boxes, labels, mask)
    partners, passes, crowd, positives, longest = _partners(
        candidates.arrays, truths.arrays, num_classes, COCO.needed_iou
    )
    length = max(1, int(longest.max(initial=0)))
    return Relations(
        overlap=overlap,
        partners=np.ascontiguousarray(partners[:, :, :length]),
        passes=np.ascontiguousarray(passes[:, :, :length]),
        crowd=crowd,
        labels=labels,
        mask=mask,
        positives=positives,
    )


def reach(detections: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> UInt32[np.ndarray, "B N"]:
    """At which of COCO's IoU thresholds a detection overlaps a true box of its class, or lies in its crowd, as bits.

    Whether it gets one is for `rl_det.ap.matching` to say. Raises ValueError on bad input, naming it.
    """
    check(detections, truths, num_classes)
    _, passes, _, _, _ = _partners(detections.arrays, truths.arrays, num_classes, COCO.needed_iou)
    reached: UInt32[np.ndarray, "B N"] = np.bitwise_or.reduce(passes, -1)
    return reached


def pairwise_iou(boxes: Float[np.ndarray, "B N 4"], others: Float[np.ndarray, "B G 4"]) -> Float64[np.ndarray, "B N G"]:
    """Intersection over union of every pair of an image, in [0, 1], whatever the labels; 0 where the union is empty."""
    own, other = boxes.astype(np.float64)[:, :, None], others.astype(np.float64)[:, None]
    sides = np.minimum(own[..., 2:], other[..., 2:]) - np.maximum(own[..., :2], other[..., :2])
    shared = sides.clip(0).prod(-1)
    union = (own[..., 2:] - own[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - shared
    result: Float64[np.ndarray, "B N G"] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


@compiled_in_parallel
def _overlap(boxes: Any, labels: Any, mask: Any) -> Any:
    """Same-class IoU among each image's candidates."""
    num_images, num_candidates = labels.shape
    overlap = np.zeros((num_images, num_candidates, num_candidates), dtype=np.float32)
    for b in prange(num_images):
        for i in range(num_candidates):
            if not mask[b, i]:
                continue
            for j in range(i):
                if mask[b, j] and labels[b, j] == labels[b, i]:
                    overlap[b, i, j] = overlap[b, j, i] = suppression_iou(boxes[b, i], boxes[b, j])
    return overlap


@compiled_in_parallel
def _partners(candidates: Any, truths: Any, num_classes: int, needed_iou: Any) -> Any:
    """Whom each candidate may match, at which thresholds, and how many there are at most in each image."""
    num_images, num_candidates = candidates.labels.shape
    num_truths = truths.labels.shape[1]
    partners = np.full((num_images, num_candidates, max(1, num_truths)), -1, dtype=np.int16)
    passes = np.zeros((num_images, num_candidates, max(1, num_truths)), dtype=np.uint32)
    crowds = np.zeros((num_images, num_truths), dtype=np.bool_)
    positives = np.zeros((num_images, num_classes), dtype=np.int64)
    longest = np.zeros(num_images, dtype=np.int64)
    everything = np.array([0.0, np.inf])
    chunk = (num_images + NUM_CHUNKS - 1) // NUM_CHUNKS
    for first in prange(NUM_CHUNKS):
        classed, wishes = room_for_truths(num_truths, num_classes), room_for_wishes(num_truths)
        true_starts, _, sides, true_crowds = classed
        places, overlaps, bits = wishes
        uncounted, counts = np.zeros(num_truths, dtype=np.bool_), np.zeros(num_classes + 1, dtype=np.int64)
        for b in range(first * chunk, min((first + 1) * chunk, num_images)):
            class_truths(b, truths, classed)
            count_positives(b, truths, classed, everything, uncounted, counts)
            positives[b] = counts[1:]
            for place in range(classed.starts[-1]):
                crowds[b, place] = classed.crowds[place]
            for i in range(num_candidates):
                if candidates.mask[b, i]:
                    label = candidates.labels[b, i]
                    count = list_partners(
                        box_of(candidates.boxes[b], i), true_starts[label], true_starts[label + 1], sides, true_crowds,
                        needed_iou, places, overlaps, bits, partners[b, i], passes[b, i],
                    )  # fmt: skip
                    longest[b] = max(longest[b], count)
    return partners, passes, crowds, positives, longest


@compiled
def list_partners(
    box: Any, start: int, end: int, sides: Any, crowds: Any, needed_iou: Any, places: Any, overlaps: Any, bits: Any,
    partners: Any, passes: Any,
) -> int:  # fmt: skip
    """Write whom a box may match, crowds last and -1 behind them, and at which thresholds; returns how many they are.

    All but the last two are those of `prefer`.
    """
    count: int = prefer(box, start, end, sides, crowds, needed_iou, places, overlaps, bits)
    length = 0
    for wanted in (False, True):
        for k in range(count):
            if crowds[places[k]] == wanted:
                partners[length], passes[length] = places[k], bits[k]
                length += 1
    partners[length:] = -1
    return count
