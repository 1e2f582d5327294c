"""Boxes of candidates and truths -> who suppresses whom and who may match whom, as torchvision's NMS and COCO decide it.

Both are decided class by class and do not depend on a score, so they are computed once, and scores may change as often as
they like (`rl_det.ap.candidate_pool`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int8, Int16, Int64, UInt32

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, inlined
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.preference import (
    ALL_BITS,
    ClassedTruths,
    Wishes,
    box_of,
    class_truths,
    count_positives,
    prefer,
    room_for_truths,
    room_for_wishes,
)
from rl_det.ap.suppression import suppression_iou
from rl_det.ap.threads import kept, share_out

COUNTED, CROWD, UNCOUNTED = range(3)
"""What a true box is to matching: to be found; ignored, and never taken; or ignored, and taken by one detection."""


@dataclass(frozen=True, kw_only=True)
class Relations:
    """What B images' candidates are to each other and to the true boxes.

    `overlap` is the float32 IoU between candidates of one class (0 between classes), on which NMS decides. `partners` are
    the true boxes that a candidate may match, in order of preference (-1 behind the last), `passes` the IoU thresholds at which
    it may, as bits; true boxes are known by their place among the image's, sorted by label. `kinds` says of each whether it
    counts (`COUNTED`), is a `CROWD`, or is `UNCOUNTED`, as its area is out of the options' range; the last is no true box but
    a crowd, in which every candidate lies whose own area is out of range. `positives` counts those that count, per class.
    """

    overlap: Float32[np.ndarray, "B N N"]
    partners: Int16[np.ndarray, "B N L"]
    passes: UInt32[np.ndarray, "B N L"]
    kinds: Int8[np.ndarray, "B K"]
    labels: Int64[np.ndarray, "B N"]
    mask: Bool[np.ndarray, "B N"]
    positives: Int64[np.ndarray, "B C"]
    options: CocoOptions = COCO
    """Those by which they were made; `max_detections` has no part in them."""


def relations(
    boxes: Float32[np.ndarray, "B N 4"],
    labels: Int64[np.ndarray, "B N"],
    mask: Bool[np.ndarray, "B N"],
    truths: TruthBatch,
    *,
    num_classes: int,
    options: CocoOptions = COCO,
) -> Relations:
    """The relations of padded candidates with their images' true boxes, at the options' thresholds and area range.

    Raises ValueError on bad input, naming argument ("detections" are the candidates), image and index.
    """
    candidates = DetectionBatch(boxes=boxes, labels=labels, scores=np.zeros(mask.shape, dtype=np.float32), mask=mask)
    check(candidates, truths, num_classes)
    num_images, num_candidates = mask.shape
    overlap = np.zeros((num_images, num_candidates, num_candidates), dtype=np.float32)
    share_out(_overlap, num_images, tuple, boxes, labels, mask, overlap)
    found = _all_partners(candidates, truths, num_classes, options)
    length = max(1, int(found.longest.max(initial=0)))
    return Relations(
        overlap=overlap,
        partners=np.ascontiguousarray(found.partners[:, :, :length]),
        passes=np.ascontiguousarray(found.passes[:, :, :length]),
        kinds=found.kinds,
        labels=labels,
        mask=mask,
        positives=found.positives,
        options=options,
    )


def reach(detections: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> UInt32[np.ndarray, "B N"]:
    """At which of COCO's IoU thresholds a detection overlaps a true box of its class, or lies in its crowd, as bits.

    Whether it gets one is for `rl_det.ap.matching` to say. Raises ValueError on bad input, naming it.
    """
    check(detections, truths, num_classes)
    found = _all_partners(detections, truths, num_classes, COCO)
    reached: UInt32[np.ndarray, "B N"] = np.bitwise_or.reduce(found.passes, -1)
    return reached


def pairwise_iou(boxes: Float[np.ndarray, "B N 4"], others: Float[np.ndarray, "B G 4"]) -> Float64[np.ndarray, "B N G"]:
    """Intersection over union of every pair of an image, in [0, 1], whatever the labels; 0 where the union is empty."""
    own, other = boxes.astype(np.float64)[:, :, None], others.astype(np.float64)[:, None]
    sides = np.minimum(own[..., 2:], other[..., 2:]) - np.maximum(own[..., :2], other[..., :2])
    shared = sides.clip(0).prod(-1)
    union = (own[..., 2:] - own[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - shared
    result: Float64[np.ndarray, "B N G"] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


@compiled
def _overlap(first: int, end: int, _: Any, boxes: Any, labels: Any, mask: Any, overlap: Any) -> None:
    """Same-class IoU among the candidates of each of a slice of the images."""
    num_candidates = labels.shape[1]
    for b in range(first, end):
        for i in range(num_candidates):
            if not mask[b, i]:
                continue
            for j in range(i):
                if mask[b, j] and labels[b, j] == labels[b, i]:
                    overlap[b, i, j] = overlap[b, j, i] = suppression_iou(boxes[b, i], boxes[b, j])


class PartnersRoom(NamedTuple):
    """Scratch memory for one image after another."""

    classed: ClassedTruths
    wishes: Wishes
    uncounted: np.ndarray  # [G]
    counts: np.ndarray  # [C + 1]


@kept
def room_for_partners(num_truths: int, num_classes: int) -> PartnersRoom:
    """Empty `PartnersRoom`."""
    return PartnersRoom(
        room_for_truths(num_truths, num_classes), room_for_wishes(num_truths), np.zeros(num_truths, dtype=np.bool_),
        np.zeros(num_classes + 1, dtype=np.int32),
    )  # fmt: skip


class AllPartners(NamedTuple):
    """Whom each candidate may match, at which thresholds, how many that are at most in an image; and two of `Relations`."""

    partners: np.ndarray  # [B, N, G]
    passes: np.ndarray  # [B, N, G]
    kinds: np.ndarray  # [B, G + 1]
    positives: np.ndarray  # [B, C]
    longest: np.ndarray  # [B]


def _all_partners(
    candidates: DetectionBatch, truths: TruthBatch, num_classes: int, options: CocoOptions
) -> AllPartners:
    (num_images, num_candidates), num_truths = candidates.mask.shape, truths.mask.shape[1]
    shape = num_images, num_candidates, num_truths + 1
    found = AllPartners(
        partners=np.full(shape, -1, dtype=np.int16),
        passes=np.zeros(shape, dtype=np.uint32),
        kinds=np.full((num_images, num_truths + 1), CROWD, dtype=np.int8),
        positives=np.zeros((num_images, num_classes), dtype=np.int64),
        longest=np.zeros(num_images, dtype=np.int64),
    )
    share_out(
        _partners,
        num_images,
        lambda: room_for_partners(num_truths, num_classes),
        candidates.arrays,
        truths.arrays,
        options.needed_iou,
        np.array(options.area_range),
        *found,
    )
    return found


@compiled
def _partners(
    first: int, end: int, room: Any, candidates: Any, truths: Any, needed_iou: Any, area_range: Any, partners: Any, passes: Any,
    kinds: Any, positives: Any, longest: Any,
) -> None:  # fmt: skip
    """`AllPartners` of a slice of the images."""
    classed, (places, overlaps, bits), uncounted, counts = room
    true_starts, _, sides, true_crowds = classed
    for b in range(first, end):
        class_truths(b, truths, classed)
        count_positives(b, truths, classed, area_range, uncounted, counts)
        for c in range(positives.shape[1]):
            positives[b, c] = counts[c + 1]
        for place in range(classed.starts[-1]):
            kinds[b, place] = CROWD if classed.crowds[place] else UNCOUNTED if uncounted[place] else COUNTED
        for i in range(candidates.labels.shape[1]):
            if candidates.mask[b, i]:
                label = candidates.labels[b, i]
                count = list_partners(
                    box_of(candidates.boxes[b], i), true_starts[label], true_starts[label + 1], sides, true_crowds,
                    kinds[b], needed_iou, area_range, places, overlaps, bits, partners[b, i], passes[b, i],
                )  # fmt: skip
                longest[b] = max(longest[b], count)


@inlined
def list_partners(
    box: Any, start: int, end: int, sides: Any, crowds: Any, kinds: Any, needed_iou: Any, area_range: Any, places: Any,
    overlaps: Any, bits: Any, partners: Any, passes: Any,
) -> int:  # fmt: skip
    """Write whom a box may match, first what counts, with -1 at the end, and at which thresholds; returns how many they are."""
    count: int = prefer(box, start, end, sides, crowds, needed_iou, places, overlaps, bits)
    length = 0
    for wanted in (False, True):
        for k in range(count):
            if (kinds[places[k]] != COUNTED) == wanted:
                partners[length], passes[length] = places[k], bits[k]
                length += 1
    area = (box[2] - box[0]) * (box[3] - box[1])
    if area < area_range[0] or area > area_range[1]:
        partners[length], passes[length] = len(kinds) - 1, ALL_BITS
        length += 1
    for k in range(length, len(partners)):
        partners[k] = -1
    return length
