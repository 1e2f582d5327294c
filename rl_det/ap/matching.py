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
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64, UInt32

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compilable, compiled, inlined
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.preference import (
    ALL_BITS,
    ClassedTruths,
    Wishes,
    box_of,
    class_truths,
    count_positives,
    group_by_label,
    prefer,
    room_for_truths,
    room_for_wishes,
)
from rl_det.ap.sorting import SortRoom, room_for_sort, sort_falling
from rl_det.ap.threads import kept, share_out

COUNTING_PAYS = 400  # detections of one class; beyond, a merge sort


class Rules(NamedTuple):
    """What the compiled functions take of `CocoOptions`."""

    needed_iou: np.ndarray  # [T]
    area_ranges: np.ndarray  # [A, 2]
    max_detections: int


class MatchRoom(NamedTuple):
    """Scratch memory for one image after another."""

    grouped: np.ndarray  # [N]
    sort: SortRoom
    classed: ClassedTruths
    wishes: Wishes
    uncounted: np.ndarray  # [A, G]
    taken: np.ndarray  # [A, G]


@kept
def room_for_match(num_detections: int, num_truths: int, num_classes: int, num_ranges: int) -> MatchRoom:
    """Empty `MatchRoom`."""
    return MatchRoom(
        grouped=np.zeros(num_detections, dtype=np.int32),
        sort=room_for_sort(num_detections),
        classed=room_for_truths(num_truths, num_classes),
        wishes=room_for_wishes(num_truths),
        uncounted=np.zeros((num_ranges, num_truths), dtype=np.bool_),
        taken=np.zeros((num_ranges, num_truths), dtype=np.uint32),
    )


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

    @property
    def sizes(self) -> Int64[np.ndarray, " C"]:
        """How many detections each class has."""
        sizes: Int64[np.ndarray, " C"] = np.diff(self.starts, axis=1)[:, 1:].sum(0, dtype=np.int64)
        return sizes

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
    num_images, num_detections = detections.mask.shape
    matches = Matches(
        order=np.zeros((num_images, num_detections), dtype=np.int32),
        starts=np.zeros((num_images, num_classes + 2), dtype=np.int32),
        scores=np.zeros((num_images, num_detections)),
        hits=np.zeros((len(area_ranges), num_images, num_detections), dtype=np.uint32),
        ignored=np.zeros((len(area_ranges), num_images, num_detections), dtype=np.uint32),
        positives=np.zeros((len(area_ranges), num_images, num_classes + 1), dtype=np.int32),
    )
    room = partial(room_for_match, num_detections, truths.mask.shape[1], num_classes, len(area_ranges))
    share_out(
        _match, num_images, room, detections.arrays, truths.arrays, rules, matches.order, matches.starts,
        matches.scores, matches.hits, matches.ignored, matches.positives,
    )  # fmt: skip
    return matches


@compiled
def _match(
    first: int, end: int, room: Any, detections: Any, truths: Any, rules: Any, order: Any, starts: Any, ranked: Any, hits: Any,
    ignored: Any, positives: Any,
) -> None:  # fmt: skip
    """`match_ranges` for a slice of the images."""
    boxes, labels, scores, mask = detections
    needed_iou, area_ranges, max_detections = rules
    num_ranges, num_classes = len(area_ranges), starts.shape[1] - 2
    grouped, sort, classed, (places, overlaps, passes), uncounted, taken = room
    sides, crowds = classed.sides, classed.crowds
    for b in range(first, end):
        class_truths(b, truths, classed)
        for a in range(num_ranges):
            count_positives(b, truths, classed, area_ranges[a], uncounted[a], positives[a, b])
        for a in range(num_ranges):
            for g in range(taken.shape[1]):
                taken[a, g] = 0
        group_by_label(labels[b], mask[b], starts[b], grouped)
        for label in range(1, num_classes + 1):
            start, stop = starts[b, label], starts[b, label + 1]
            if start == stop:
                continue
            sort_by_score(grouped, scores[b], start, stop, order[b], ranked[b], sort)
            true_start, true_end = classed.starts[label], classed.starts[label + 1]
            for place in range(start, stop):
                if place >= start + max_detections:
                    for a in range(num_ranges):
                        ignored[a, b, place] = ALL_BITS
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


@compilable
def sort_by_score(grouped: Any, scores: Any, start: int, end: int, order: Any, ranked: Any, room: Any) -> None:
    """Write grouped[start:end] by falling score to `order`, stably, and the scores themselves to `ranked`.

    A detection's place is the number of those before it: for a few hundred, counting beats any sort that branches.
    """
    count, (keys, by_score, _, _) = end - start, room
    for k in range(count):
        keys[k], by_score[k] = scores[grouped[start + k]], k
    if count > COUNTING_PAYS:
        sort_falling(room, count)
        for k in range(count):
            order[start + k], ranked[start + k] = grouped[start + by_score[k]], keys[k]
        return
    for k in range(count):
        before = 0
        for other in range(k):
            before += keys[other] >= keys[k]
        for other in range(k + 1, count):
            before += keys[other] > keys[k]
        order[start + before], ranked[start + before] = grouped[start + k], keys[k]


@inlined
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
