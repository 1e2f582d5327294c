"""Detections and true boxes of B images -> what each detection is worth: AP as it is minus AP without it, all N at once.

Nothing is evaluated from scratch. Only the detection's own class can change, and in it:

1. A false positive that takes part in the ranking, once gone, moves those below it up by one. All false positives between
   the same two neighbours that matched are worth the same: one walk for each such run.
2. A detection that matched frees its true box for the detections below, one of which may take it and free another: a
   vacancy chain. One walk down the list follows the chains of all IoU thresholds at once, as bits.
3. A detection that was shut out by `max_detections` moves in.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numba import prange

from rl_det.ap.average_precision import ranked_ap, room_for_walk
from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import NUM_CHUNKS, Rules, sort_by_score
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


class OwnTruths(NamedTuple):
    """One class's part of `ClassedTruths`, and which of its true boxes need not be found."""

    sides: np.ndarray  # [5, K]
    crowds: np.ndarray  # [K]
    uncounted: np.ndarray  # [K]


class Choices(NamedTuple):
    """Whom each of a class's ranked detections prefers, in that order: true boxes, the thresholds, and those it got them at.

    `lengths` says how many they are; `outside`, whether the detection's own area is out of the range.
    """

    partners: np.ndarray  # [M, K]
    passes: np.ndarray  # [M, K]
    got: np.ndarray  # [M, K]
    lengths: np.ndarray  # [M]
    outside: np.ndarray  # [M]


def leave_one_out(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, options: CocoOptions = COCO
) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N"]]:
    """Each image's AP (`image_ap`) and what it would lose without detection n, in mAP; negative where it would gain.

    0 for padding, for detections of classes that the image does not hold, and in images whose AP is NaN.
    """
    check(detections, truths, num_classes)
    rules = Rules(options.needed_iou, np.array([options.area_range]), options.max_detections)
    table = options.recall_weights.up_to(truths.mask.shape[1])
    aps: tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N"]] = _leave_one_out(
        detections.arrays, truths.arrays, num_classes, rules, table
    )
    return aps


@compiled_in_parallel
def _leave_one_out(detections: Any, truths: Any, num_classes: int, rules: Any, table: Any) -> Any:
    """`leave_one_out` for all images, in chunks that have their scratch memory to themselves."""
    boxes, labels, scores, mask = detections
    needed_iou, area_ranges, max_detections = rules
    num_images, num_detections = labels.shape
    num_truths, num_thresholds = truths.labels.shape[1], len(needed_iou)
    aps, worth = np.full(num_images, np.nan), np.zeros((num_images, num_detections))
    chunk = (num_images + NUM_CHUNKS - 1) // NUM_CHUNKS
    for first in prange(NUM_CHUNKS):
        grouped, order = np.zeros(num_detections, dtype=np.int32), np.zeros(num_detections, dtype=np.int32)
        starts, ranked = np.zeros(num_classes + 2, dtype=np.int32), np.zeros(num_detections)
        keys, values = np.zeros(num_detections), np.zeros(num_detections)
        classed = room_for_truths(num_truths, num_classes)
        uncounted, positives = np.zeros(num_truths, dtype=np.bool_), np.zeros(num_classes + 1, dtype=np.int32)
        for b in range(first * chunk, min((first + 1) * chunk, num_images)):
            class_truths(b, truths, classed)
            count_positives(b, truths, classed, area_ranges[0], uncounted, positives)
            present = (positives > 0).sum()
            if present == 0:
                continue
            group_by_label(labels[b], mask[b], starts, grouped)
            total = 0.0
            for label in range(1, num_classes + 1):
                start, end = starts[label], starts[label + 1]
                if start == end or positives[label] == 0:
                    continue
                sort_by_score(grouped, scores[b], start, end, order, ranked, keys)
                total += leave_out_of_class(
                    boxes[b], order[start : min(end, start + max_detections + 1)],
                    own_truths(label, classed, uncounted), rules, table[positives[label]], values,
                )  # fmt: skip
                for place in range(start, min(end, start + max_detections)):
                    worth[b, order[place]] = values[place - start] / present / num_thresholds
            aps[b] = total / present / num_thresholds
    return aps, worth


@compiled
def own_truths(label: int, classed: Any, uncounted: Any) -> Any:
    """One class's `OwnTruths`, close together in memory."""
    own = slice(classed.starts[label], classed.starts[label + 1])
    return OwnTruths(classed.sides[:, own].copy(), classed.crowds[own], uncounted[own])


@compiled
def leave_out_of_class(boxes: Any, order: Any, own: Any, rules: Any, weights: Any, values: Any) -> float:
    """The AP of one class, summed over thresholds; `values` receives what each of its ranked detections is worth to it.

    The last of `order` may be the one that `max_detections` shuts out, which moves in when another goes.
    """
    count, inside = len(order), min(len(order), rules.max_detections)
    choices, hits, ignored = match_class(boxes, order, own, rules)
    partners, got, lengths = choices.partners, choices.got, choices.lengths
    walk = room_for_walk(len(rules.needed_iou))
    base: float = ranked_ap(hits, ignored, 0, inside, weights, walk)
    new_hits, new_ignored = np.zeros(count, dtype=np.uint32), np.zeros(count, dtype=np.uint32)
    vacant = np.zeros(len(own.crowds), dtype=np.uint32)
    in_a_run = False
    for gone in range(inside):
        if hits[gone] or ignored[gone]:
            in_a_run = False
        elif in_a_run:
            values[gone] = values[gone - 1]
            continue
        else:
            in_a_run = True
        new_hits[:], new_ignored[:] = hits, ignored
        new_hits[gone], new_ignored[gone] = 0, ALL_BITS
        if hits[gone] or ignored[gone]:
            for k in range(lengths[gone]):
                if not own.crowds[partners[gone, k]]:
                    vacant[partners[gone, k]] |= got[gone, k]
            fill_vacancies(gone + 1, own, choices, vacant, new_hits, new_ignored)
        values[gone] = base - ranked_ap(new_hits, new_ignored, 0, count, weights, walk)
    return base


@compiled
def match_class(boxes: Any, order: Any, own: Any, rules: Any) -> Any:
    """Match a class's ranked detections: what they choose, and their hits and ignored, as bits."""
    sides, crowds, uncounted = own
    needed_iou, low, high = rules.needed_iou, rules.area_ranges[0, 0], rules.area_ranges[0, 1]
    count, num_truths = len(order), len(crowds)
    partners = np.empty((count, num_truths), dtype=np.int32)
    passes, got = np.empty((count, num_truths), dtype=np.uint32), np.empty((count, num_truths), dtype=np.uint32)
    lengths, outside = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    hits, ignored = np.zeros(count, dtype=np.uint32), np.zeros(count, dtype=np.uint32)
    taken, (candidates, overlaps, close) = np.zeros(num_truths, dtype=np.uint32), room_for_wishes(num_truths)
    for place in range(len(order)):
        box = box_of(boxes, order[place])
        area = (box[2] - box[0]) * (box[3] - box[1])
        outside[place] = area < low or area > high
        num_close = prefer(box, 0, num_truths, sides, crowds, needed_iou, candidates, overlaps, close)
        needed = ALL_BITS
        for wanted in (False, True):
            for k in range(num_close):
                g = candidates[k]
                if uncounted[g] != wanted:
                    continue
                bits = close[k] & needed
                if not crowds[g]:
                    bits &= ~taken[g]
                    taken[g] |= bits
                needed &= ~bits
                partners[place, lengths[place]], passes[place, lengths[place]] = g, close[k]
                got[place, lengths[place]] = bits
                lengths[place] += 1
                if wanted:
                    ignored[place] |= bits
                else:
                    hits[place] |= bits
        if outside[place]:
            ignored[place] |= needed
    return Choices(partners, passes, got, lengths, outside), hits, ignored


@compiled
def fill_vacancies(first: int, own: Any, choices: Any, vacant: Any, hits: Any, ignored: Any) -> None:
    """Let the detections from `first` on move to true boxes that are vacant, where they prefer them; `vacant` is left empty."""
    partners, passes, got, lengths, outside = choices
    _, crowds, uncounted = own
    for place in range(first, len(lengths)):
        if lengths[place] == 0:
            continue
        undecided, hit, skip = ALL_BITS, np.uint32(0), np.uint32(0)
        for k in range(lengths[place]):
            g = partners[place, k]
            moved_in = vacant[g] & passes[place, k] & undecided
            moved_out = got[place, k] & ~undecided
            stays = got[place, k] & undecided
            vacant[g] &= ~moved_in
            if not crowds[g]:
                vacant[g] |= moved_out
            undecided &= ~(moved_in | stays)
            if uncounted[g]:
                skip |= moved_in | stays
            else:
                hit |= moved_in | stays
        if outside[place]:
            skip |= undecided
        hits[place], ignored[place] = hit, skip
    vacant[:] = 0
