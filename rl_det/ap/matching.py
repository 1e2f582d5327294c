"""Padded detections and true boxes -> which detections are right, at all IoU thresholds in one pass, as COCO decides it.

COCO matches greedily, threshold by threshold: the detections of a class by falling score, each to the free true box of
the highest IoU. Here an outcome is one bit per threshold, and all thresholds are decided at once:

    candidates of a detection = true boxes of its class with enough IoU for one threshold at least, in order of preference:
                                not ignored first, then by falling IoU, of equals the later
    take = passes[candidate] & needed & ~taken[candidate]        (a crowd is never taken)

which is the same decision, because what a detection takes at one threshold depends on nothing at another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int32, UInt32
from numba import prange

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, compiled_in_parallel, lowest_bit
from rl_det.ap.options import COCO, MAX_THRESHOLDS, CocoOptions

NUM_CHUNKS = 64  # of a batch; enough to keep many cores busy, and each has its scratch memory to itself
WORD = 64  # bits
COUNTING_PAYS = 400  # detections of one class; beyond, a merge sort
HARDLY = 1 - 1e-9  # an IoU below this share of the least threshold needs no division to be refused
ALL_BITS = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The outcome of every detection of B images, under A area ranges; class by class, in score order.

    `order[b]` lists image b's detections by class, each class by falling score: those of label c have the places
    `starts[b, c]` up to `starts[b, c + 1]`. For each place, `scores` ranks it, and `hits` and `ignored` have a bit per IoU
    threshold: is it a true positive, does it not count at all (in a crowd, out of the area range, beyond
    `max_detections`). `positives[a, b, c]` counts the true boxes of label c that are to be found; L = C + 1, as labels
    begin at 1.
    """

    positives: Int32[np.ndarray, "A B L"]
    order: Int32[np.ndarray, "B N"]
    starts: Int32[np.ndarray, "B L+1"]
    scores: Float64[np.ndarray, "B N"]
    hits: UInt32[np.ndarray, "A B N"]
    ignored: UInt32[np.ndarray, "A B N"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, images: Int[np.ndarray, " b"] | slice) -> "Matches":
        """The matches of some of the images, in the order asked for."""
        return Matches(
            positives=self.positives[:, images],
            order=self.order[images],
            starts=self.starts[images],
            scores=self.scores[images],
            hits=self.hits[:, images],
            ignored=self.ignored[:, images],
        )


def match(detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, options: CocoOptions = COCO) -> Matches:
    """Match every image under the one area range of the options; ValueError on bad input, naming the culprit."""
    return match_ranges(detections, truths, (options.area_range,), num_classes=num_classes, options=options)


def match_ranges(
    detections: DetectionBatch,
    truths: TruthBatch,
    area_ranges: Sequence[tuple[float, float]],
    *,
    num_classes: int,
    options: CocoOptions = COCO,
) -> Matches:
    """The same under several area ranges, at the price of little more than one."""
    check(detections, truths, num_classes)
    d, t = detections, truths
    order, starts, scores, hits, ignored, positives = _match(
        d.boxes, d.labels, d.scores, d.mask, t.boxes, t.labels, t.area, t.iscrowd, t.mask,
        num_classes, options.needed_iou, np.array(area_ranges), options.max_detections,
    )  # fmt: skip
    return Matches(order=order, starts=starts, scores=scores, hits=hits, ignored=ignored, positives=positives)


@compiled_in_parallel
def _match(
    boxes: Any, labels: Any, scores: Any, mask: Any,
    true_boxes: Any, true_labels: Any, true_area: Any, crowd: Any, true_mask: Any,
    num_classes: int, needed_iou: Any, area_ranges: Any, max_detections: int,
) -> Any:  # fmt: skip
    """`match_ranges` for all images, in chunks that have their scratch memory to themselves."""
    num_images, num_detections = labels.shape
    num_truths, num_ranges = true_labels.shape[1], len(area_ranges)
    order = np.zeros((num_images, num_detections), dtype=np.int32)
    starts = np.zeros((num_images, num_classes + 2), dtype=np.int32)
    ranked = np.zeros((num_images, num_detections))
    hits = np.zeros((num_ranges, num_images, num_detections), dtype=np.uint32)
    ignored = np.zeros((num_ranges, num_images, num_detections), dtype=np.uint32)
    positives = np.zeros((num_ranges, num_images, num_classes + 1), dtype=np.int32)
    chunk = (num_images + NUM_CHUNKS - 1) // NUM_CHUNKS
    for first in prange(NUM_CHUNKS):
        grouped = np.zeros(num_detections, dtype=np.int32)
        true_order = np.zeros(num_truths, dtype=np.int32)
        true_starts = np.zeros(num_classes + 2, dtype=np.int32)
        truths = np.zeros((5, num_truths))
        crowds = np.zeros(num_truths, dtype=np.bool_)
        uncounted = np.zeros((num_ranges, num_truths), dtype=np.bool_)
        taken = np.zeros((num_ranges, num_truths), dtype=np.uint32)
        keys = np.zeros(num_detections)
        candidates = np.zeros(num_truths, dtype=np.int32)
        overlaps, passes = np.zeros(num_truths), np.zeros(num_truths, dtype=np.uint32)
        for b in range(first * chunk, min((first + 1) * chunk, num_images)):
            group_by_label(true_labels[b], true_mask[b], true_starts, true_order)
            gather_truths(true_order, true_starts[-1], true_boxes[b], crowd[b], truths, crowds)
            for a in range(num_ranges):
                count_positives(
                    true_order, true_starts[-1], true_labels[b], true_area[b], crowd[b], area_ranges[a],
                    uncounted[a], positives[a, b],
                )  # fmt: skip
            taken[:] = 0
            group_by_label(labels[b], mask[b], starts[b], grouped)
            for label in range(1, num_classes + 1):
                start, end = starts[b, label], starts[b, label + 1]
                if start == end:
                    continue
                sort_by_score(grouped, scores[b], start, end, order[b], ranked[b], keys)
                true_start, true_end = true_starts[label], true_starts[label + 1]
                for place in range(start, end):
                    if place >= start + max_detections:
                        ignored[:, b, place] = ALL_BITS
                        continue
                    i = order[b, place]
                    x1, y1 = np.float64(boxes[b, i, 0]), np.float64(boxes[b, i, 1])
                    x2, y2 = np.float64(boxes[b, i, 2]), np.float64(boxes[b, i, 3])
                    own = (x2 - x1) * (y2 - y1)
                    count = 0
                    if true_start < true_end:
                        box = (x1, y1, x2, y2)
                        count = prefer(
                            box, truths, crowds, true_start, true_end, needed_iou, candidates, overlaps, passes
                        )
                    for a in range(num_ranges):
                        hit, skip = np.uint32(0), np.uint32(0)
                        if count:
                            hit, skip = take(candidates, passes, count, uncounted[a], crowds, taken[a])
                        if own < area_ranges[a, 0] or own > area_ranges[a, 1]:
                            skip |= ALL_BITS & ~hit
                        hits[a, b, place], ignored[a, b, place] = hit, skip
    return order, starts, ranked, hits, ignored, positives


@compiled
def group_by_label(labels: Any, mask: Any, starts: Any, order: Any) -> None:
    """A stable counting sort of one image's indices; those of label c come to stand at starts[c] up to starts[c + 1]."""
    starts[:] = 0
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


@compiled
def gather_truths(order: Any, count: int, boxes: Any, crowd: Any, truths: Any, crowds: Any) -> None:
    """One image's true boxes by label, as columns x1, y1, x2, y2 and what they add to a union: a crowd, nothing."""
    for place in range(count):
        g = order[place]
        for side in range(4):
            truths[side, place] = boxes[g, side]
        crowds[place] = crowd[g]
        area = (truths[2, place] - truths[0, place]) * (truths[3, place] - truths[1, place])
        truths[4, place] = 0.0 if crowd[g] else area


@compiled
def count_positives(
    order: Any, count: int, labels: Any, area: Any, crowd: Any, area_range: Any, uncounted: Any, positives: Any
) -> None:
    """Which of one image's true boxes need not be found (crowds, and those out of the area range); how many of a label must."""
    positives[:] = 0
    for place in range(count):
        g = order[place]
        uncounted[place] = crowd[g] or area[g] < area_range[0] or area[g] > area_range[1]
        positives[labels[g]] += not uncounted[place]


@compiled
def sort_by_score(grouped: Any, scores: Any, start: int, end: int, order: Any, ranked: Any, keys: Any) -> None:
    """Write grouped[start:end] by falling score to `order`, stably, and the scores themselves to `ranked`.

    A detection's place is the number of those before it: for a few hundred, counting beats any sort that branches.
    """
    count = end - start
    for k in range(count):
        keys[k] = scores[grouped[start + k]]
    if count > COUNTING_PAYS:
        by_score = np.argsort(-keys[:count], kind="mergesort")
        for k in range(count):
            order[start + k], ranked[start + k] = grouped[start + by_score[k]], keys[by_score[k]]
        return
    for k in range(count):
        before = 0
        for other in range(k):
            before += keys[other] >= keys[k]
        for other in range(k + 1, count):
            before += keys[other] > keys[k]
        order[start + before], ranked[start + before] = grouped[start + k], keys[k]


@compiled
def prefer(
    box: Any,
    truths: Any,
    crowds: Any,
    start: int,
    end: int,
    needed_iou: Any,
    candidates: Any,
    overlaps: Any,
    passes: Any,
) -> int:
    """The true boxes that a detection may match, by falling IoU, of equals the later; returns how many there are."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    count = 0
    for first in range(start, end, WORD):
        near = enough(box, area, truths, first, min(WORD, end - first), HARDLY * needed_iou[0])
        while near:
            g = first + lowest_bit(near)
            near &= near - np.uint64(1)
            iou = overlap(box, area, truths, g, crowds[g])
            passed = 0
            for t in range(len(needed_iou)):
                passed += iou >= needed_iou[t]
            if passed == 0:
                continue
            slot = count
            while slot > 0 and overlaps[slot - 1] <= iou:
                candidates[slot], overlaps[slot], passes[slot] = (
                    candidates[slot - 1],
                    overlaps[slot - 1],
                    passes[slot - 1],
                )
                slot -= 1
            candidates[slot], overlaps[slot] = g, iou
            passes[slot] = ALL_BITS >> np.uint32(MAX_THRESHOLDS - passed)
            count += 1
    return count


@compiled
def enough(box: Any, area: float, truths: Any, first: int, count: int, least: float) -> Any:
    """Which of up to 64 true boxes from `first` on overlap by the least IoU, as bits.

    Without a branch or a division, so that the compiler makes vector instructions of it. Unsigned indices, as these are
    not looked at for being negative.
    """
    x1, y1, x2, y2 = box
    near = np.uint64(0)
    for bit in range(np.uint64(count)):
        g = np.uint64(first) + bit
        width = (x2 if x2 < truths[2, g] else truths[2, g]) - (x1 if x1 > truths[0, g] else truths[0, g])
        height = (y2 if y2 < truths[3, g] else truths[3, g]) - (y1 if y1 > truths[1, g] else truths[1, g])
        shared = (width if width > 0.0 else 0.0) * (height if height > 0.0 else 0.0)
        near |= np.uint64(shared >= least * (area + truths[4, g] - shared)) << bit
    return near


@compiled
def overlap(box: Any, area: float, truths: Any, g: int, crowd: bool) -> float:
    """Intersection over union in float64, to pycocotools' last bit; over the box's own area where the truth is a crowd."""
    x1, y1, x2, y2 = box
    width = (x2 if x2 < truths[2, g] else truths[2, g]) - (x1 if x1 > truths[0, g] else truths[0, g])
    height = (y2 if y2 < truths[3, g] else truths[3, g]) - (y1 if y1 > truths[1, g] else truths[1, g])
    if width <= 0 or height <= 0:
        return 0.0
    shared: float = width * height
    iou: float = shared / (area if crowd else area + truths[4, g] - shared)
    return iou


@compiled
def take(candidates: Any, passes: Any, count: int, uncounted: Any, crowds: Any, taken: Any) -> Any:
    """What one detection matches, as bits of thresholds: true boxes that count, and such as do not; `taken` is updated."""
    hit, skip, needed = np.uint32(0), np.uint32(0), ALL_BITS
    for k in range(count):
        g = candidates[k]
        if not uncounted[g]:
            got = passes[k] & needed & ~taken[g]
            taken[g] |= got
            needed &= ~got
            hit |= got
    for k in range(count):
        g = candidates[k]
        if uncounted[g]:
            got = passes[k] & needed
            if not crowds[g]:
                got &= ~taken[g]
                taken[g] |= got
            needed &= ~got
            skip |= got
    return hit, skip
