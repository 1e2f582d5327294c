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
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int32, UInt32
from numba import prange

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.preference import (
    ALL_BITS,
    box_of,
    class_truths,
    count_positives,
    group_by_label,
    prefer,
    room_for_truths,
    room_for_wishes,
)

NUM_CHUNKS = 64  # of a batch; enough to keep many cores busy, and each has its scratch memory to itself
COUNTING_PAYS = 400  # detections of one class; beyond, a merge sort


class Rules(NamedTuple):
    """What the compiled functions take of `CocoOptions`."""

    needed_iou: np.ndarray  # [T]
    area_ranges: np.ndarray  # [A, 2]
    max_detections: int


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
    rules = Rules(options.needed_iou, np.array(area_ranges), options.max_detections)
    order, starts, scores, hits, ignored, positives = _match(detections.arrays, truths.arrays, num_classes, rules)
    return Matches(order=order, starts=starts, scores=scores, hits=hits, ignored=ignored, positives=positives)


@compiled_in_parallel
def _match(detections: Any, truths: Any, num_classes: int, rules: Any) -> Any:
    """`match_ranges` for all images, in chunks that have their scratch memory to themselves."""
    boxes, labels, scores, mask = detections
    num_images, num_detections = labels.shape
    needed_iou, area_ranges, max_detections = rules
    num_truths, num_ranges = truths.labels.shape[1], len(area_ranges)
    order = np.zeros((num_images, num_detections), dtype=np.int32)
    starts = np.zeros((num_images, num_classes + 2), dtype=np.int32)
    ranked = np.zeros((num_images, num_detections))
    hits = np.zeros((num_ranges, num_images, num_detections), dtype=np.uint32)
    ignored = np.zeros((num_ranges, num_images, num_detections), dtype=np.uint32)
    positives = np.zeros((num_ranges, num_images, num_classes + 1), dtype=np.int32)
    chunk = (num_images + NUM_CHUNKS - 1) // NUM_CHUNKS
    for first in prange(NUM_CHUNKS):
        grouped, keys = np.zeros(num_detections, dtype=np.int32), np.zeros(num_detections)
        classed, wishes = room_for_truths(num_truths, num_classes), room_for_wishes(num_truths)
        sides, crowds, (places, overlaps, passes) = classed.sides, classed.crowds, wishes
        uncounted = np.zeros((num_ranges, num_truths), dtype=np.bool_)
        taken = np.zeros((num_ranges, num_truths), dtype=np.uint32)
        for b in range(first * chunk, min((first + 1) * chunk, num_images)):
            class_truths(b, truths, classed)
            for a in range(num_ranges):
                count_positives(b, truths, classed, area_ranges[a], uncounted[a], positives[a, b])
            taken[:] = 0
            group_by_label(labels[b], mask[b], starts[b], grouped)
            for label in range(1, num_classes + 1):
                start, end = starts[b, label], starts[b, label + 1]
                if start == end:
                    continue
                sort_by_score(grouped, scores[b], start, end, order[b], ranked[b], keys)
                true_start, true_end = classed.starts[label], classed.starts[label + 1]
                for place in range(start, end):
                    if place >= start + max_detections:
                        ignored[:, b, place] = ALL_BITS
                        continue
                    box, count = box_of(boxes[b], order[b, place]), 0
                    if true_start < true_end:
                        count = prefer(box, true_start, true_end, sides, crowds, needed_iou, places, overlaps, passes)
                    own = (box[2] - box[0]) * (box[3] - box[1])
                    for a in range(num_ranges):
                        hit, skip = np.uint32(0), np.uint32(0)
                        if count:
                            hit, skip = take(count, places, passes, uncounted[a], crowds, taken[a])
                        if own < area_ranges[a, 0] or own > area_ranges[a, 1]:
                            skip |= ALL_BITS & ~hit
                        hits[a, b, place], ignored[a, b, place] = hit, skip
    return order, starts, ranked, hits, ignored, positives


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
def take(count: int, candidates: Any, passes: Any, uncounted: Any, crowds: Any, taken: Any) -> Any:
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
