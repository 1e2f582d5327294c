"""One image's true boxes, class by class -> those that a detection may match, by preference, and at which thresholds."""

from typing import Any, NamedTuple

import numpy as np

from rl_det.ap.compiled import compilable, lowest_bit
from rl_det.ap.options import MAX_THRESHOLDS

WORD = 64  # bits
HARDLY = 1 - 1e-9  # an IoU below this share of the least threshold needs no division to be refused
ALL_BITS = np.uint32(0xFFFFFFFF)


class ClassedTruths(NamedTuple):
    """One image's true boxes by label: those of label c have the places starts[c] up to starts[c + 1].

    `order` are their indices in the batch; `sides` are x1, y1, x2, y2 and what they add to a union: a crowd, nothing.
    """

    starts: np.ndarray  # [C + 2]
    order: np.ndarray  # [G]
    sides: np.ndarray  # [5, G]
    crowds: np.ndarray  # [G]


class Wishes(NamedTuple):
    """Room for the places of true boxes by preference, their IoU, and the thresholds that it passes, as bits."""

    places: np.ndarray  # [G]
    overlaps: np.ndarray  # [G]
    passes: np.ndarray  # [G]


def room_for_truths(num_truths: int, num_classes: int) -> ClassedTruths:
    """Empty `ClassedTruths`."""
    return ClassedTruths(
        np.zeros(num_classes + 2, dtype=np.int32), np.zeros(num_truths, dtype=np.int32), np.zeros((5, num_truths)),
        np.zeros(num_truths, dtype=np.bool_),
    )  # fmt: skip


def room_for_wishes(num_truths: int) -> Wishes:
    """Empty `Wishes`."""
    return Wishes(np.zeros(num_truths, dtype=np.int32), np.zeros(num_truths), np.zeros(num_truths, dtype=np.uint32))


@compilable
def class_truths(b: int, truths: Any, classed: Any) -> None:
    """Write the true boxes of image b of `TruthArrays` to `classed`."""
    starts, order, sides, crowds = classed
    boxes, crowd = truths.boxes[b], truths.iscrowd[b]
    group_by_label(truths.labels[b], truths.mask[b], starts, order)
    for place in range(starts[-1]):
        g = order[place]
        for side in range(4):
            sides[side, place] = boxes[g, side]
        crowds[place] = crowd[g]
        area = (sides[2, place] - sides[0, place]) * (sides[3, place] - sides[1, place])
        sides[4, place] = 0.0 if crowd[g] else area


@compilable
def group_by_label(labels: Any, mask: Any, starts: Any, order: Any) -> None:
    """A stable counting sort of one image's indices; those of label c come to stand at starts[c] up to starts[c + 1]."""
    for c in range(len(starts)):
        starts[c] = 0
    for i in range(len(labels)):
        if mask[i]:
            starts[labels[i] + 1] += 1
    for c in range(1, len(starts)):
        starts[c] += starts[c - 1]
    for i in range(len(labels)):
        if mask[i]:
            order[starts[labels[i]]] = i
            starts[labels[i]] += 1
    for c in range(len(starts) - 1, 0, -1):
        starts[c] = starts[c - 1]
    starts[0] = 0


@compilable
def count_positives(b: int, truths: Any, classed: Any, area_range: Any, uncounted: Any, positives: Any) -> None:
    """Which of image b's true boxes need not be found (crowds, and those out of the area range); how many of a label must."""
    labels, area, crowd = truths.labels[b], truths.area[b], truths.iscrowd[b]
    for label in range(len(positives)):
        positives[label] = 0
    for place in range(classed.starts[-1]):
        g = classed.order[place]
        uncounted[place] = crowd[g] or area[g] < area_range[0] or area[g] > area_range[1]
        positives[labels[g]] += not uncounted[place]


@compilable
def prefer(
    box: Any,
    start: int,
    end: int,
    sides: Any,
    crowds: Any,
    needed_iou: Any,
    candidates: Any,
    overlaps: Any,
    passes: Any,
) -> int:
    """The true boxes from `start` up to `end` that a box may match, by falling IoU, of equals the later; how many there are.

    The parts of `ClassedTruths` and `Wishes` come one by one: numba counts references for each field that is read from a
    tuple, and here that would take a tenth of the time.
    """
    area = (box[2] - box[0]) * (box[3] - box[1])
    count = 0
    for first in range(start, end, WORD):
        near = enough(box, area, sides, first, min(WORD, end - first), HARDLY * needed_iou[0])
        while near:
            g = first + lowest_bit(near)
            near &= near - np.uint64(1)
            iou = overlap(box, area, sides, g, crowds[g])
            passed = 0
            for t in range(len(needed_iou)):
                passed += iou >= needed_iou[t]
            if passed == 0:
                continue
            slot = count
            while slot > 0 and overlaps[slot - 1] <= iou:
                candidates[slot], overlaps[slot] = candidates[slot - 1], overlaps[slot - 1]
                passes[slot] = passes[slot - 1]
                slot -= 1
            candidates[slot], overlaps[slot] = g, iou
            passes[slot] = ALL_BITS >> np.uint32(MAX_THRESHOLDS - passed)
            count += 1
    return count


@compilable
def box_of(boxes: Any, i: int) -> Any:
    """One of [N, 4] boxes, in float64."""
    return np.float64(boxes[i, 0]), np.float64(boxes[i, 1]), np.float64(boxes[i, 2]), np.float64(boxes[i, 3])


@compilable
def enough(box: Any, area: float, sides: Any, first: int, count: int, least: float) -> Any:
    """Which of up to 64 true boxes from `first` on overlap by the least IoU, as bits.

    Without a branch or a division, so that the compiler makes vector instructions of it. Unsigned indices, as these are
    not looked at for being negative.
    """
    x1, y1, x2, y2 = box
    near = np.uint64(0)
    for bit in range(np.uint64(count)):
        g = np.uint64(first) + bit
        width = (x2 if x2 < sides[2, g] else sides[2, g]) - (x1 if x1 > sides[0, g] else sides[0, g])
        height = (y2 if y2 < sides[3, g] else sides[3, g]) - (y1 if y1 > sides[1, g] else sides[1, g])
        shared = (width if width > 0.0 else 0.0) * (height if height > 0.0 else 0.0)
        near |= np.uint64(shared >= least * (area + sides[4, g] - shared)) << bit
    return near


@compilable
def overlap(box: Any, area: float, sides: Any, g: int, crowd: bool) -> float:
    """Intersection over union in float64, to pycocotools' last bit; over the box's own area where the truth is a crowd."""
    x1, y1, x2, y2 = box
    width = (x2 if x2 < sides[2, g] else sides[2, g]) - (x1 if x1 > sides[0, g] else sides[0, g])
    height = (y2 if y2 < sides[3, g] else sides[3, g]) - (y1 if y1 > sides[1, g] else sides[1, g])
    if width <= 0 or height <= 0:
        return 0.0
    shared: float = width * height
    iou: float = shared / (area if crowd else area + sides[4, g] - shared)
    return iou
