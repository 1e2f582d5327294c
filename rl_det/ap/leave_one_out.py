"""Detections and true boxes of B images -> what each detection is worth: AP as it is minus AP without it, all N at once.

Nothing is evaluated from scratch. Only the detection's own class can change, and in it:

1. A false positive that takes part in the ranking, once gone, moves those below it up by one. All false positives between
   the same two neighbours that matched are worth the same: one walk for each such run.
2. A detection that matched frees its true box for the detections below, one of which may take it and free another: a
   vacancy chain. One walk down the list follows the chains of all IoU thresholds at once, as bits.
3. A detection that was shut out by `max_detections` moves in.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from rl_det.ap.average_precision import Walk, ranked_ap, room_for_walk
from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compilable, compiled
from rl_det.ap.matching import Rules, sort_by_score
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
from rl_det.ap.sorting import SortRoom, room_for_sort
from rl_det.ap.threads import kept, share_out


class Choices(NamedTuple):
    """Whom each of a class's ranked detections prefers, in that order: true boxes, the thresholds, and those it got them at.

    `lengths` says how many they are; `outside`, whether the detection's own area is out of the range.
    """

    partners: np.ndarray  # [M, K]
    passes: np.ndarray  # [M, K]
    got: np.ndarray  # [M, K]
    lengths: np.ndarray  # [M]
    outside: np.ndarray  # [M]


class Marks(NamedTuple):
    """A class's hits and ignored, as bits: as they are, and as they would be without one of its detections."""

    hits: np.ndarray  # [N]
    ignored: np.ndarray  # [N]
    new_hits: np.ndarray  # [N]
    new_ignored: np.ndarray  # [N]


class LeaveOneOutRoom(NamedTuple):
    """Scratch memory for one image after another."""

    grouped: np.ndarray  # [N]
    order: np.ndarray  # [N]
    starts: np.ndarray  # [C + 2]
    ranked: np.ndarray  # [N]
    values: np.ndarray  # [N]
    sort: SortRoom
    classed: ClassedTruths
    uncounted: np.ndarray  # [G]
    positives: np.ndarray  # [C + 1]
    choices: Choices
    marks: Marks
    wishes: Wishes
    taken: np.ndarray  # [G]
    walk: Walk


@kept
def room_for_leave_one_out(
    num_detections: int, num_truths: int, num_classes: int, num_thresholds: int
) -> LeaveOneOutRoom:
    """Empty `LeaveOneOutRoom`."""
    pairs = (num_detections, num_truths)
    return LeaveOneOutRoom(
        grouped=np.zeros(num_detections, dtype=np.int32),
        order=np.zeros(num_detections, dtype=np.int32),
        starts=np.zeros(num_classes + 2, dtype=np.int32),
        ranked=np.zeros(num_detections),
        values=np.zeros(num_detections),
        sort=room_for_sort(num_detections),
        classed=room_for_truths(num_truths, num_classes),
        uncounted=np.zeros(num_truths, dtype=np.bool_),
        positives=np.zeros(num_classes + 1, dtype=np.int32),
        choices=Choices(
            np.zeros(pairs, dtype=np.int32), np.zeros(pairs, dtype=np.uint32), np.zeros(pairs, dtype=np.uint32),
            np.zeros(num_detections, dtype=np.int64), np.zeros(num_detections, dtype=np.bool_),
        ),
        marks=Marks(*np.zeros((4, num_detections), dtype=np.uint32)),
        wishes=room_for_wishes(num_truths),
        taken=np.zeros(num_truths, dtype=np.uint32),
        walk=room_for_walk(num_thresholds),
    )  # fmt: skip


def leave_one_out(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, options: CocoOptions = COCO
) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N"]]:
    """Each image's AP (`image_ap`) and what it would lose without detection n, in mAP; negative where it would gain.

    0 for padding, for detections of classes that the image does not hold, and in images whose AP is NaN.
    """
    check(detections, truths, num_classes)
    rules = Rules(options.needed_iou, np.array([options.area_range]), options.max_detections)
    table = options.recall_weights.up_to(truths.mask.shape[1])
    aps, worth = np.full(len(detections), np.nan), np.zeros(detections.mask.shape)
    sizes = detections.mask.shape[1], truths.mask.shape[1], num_classes, len(options.iou_thresholds)
    room = partial(room_for_leave_one_out, *sizes)
    share_out(_leave_one_out, len(detections), room, detections.arrays, truths.arrays, rules, table, aps, worth)
    return aps, worth


@compiled
def _leave_one_out(
    first: int, end: int, room: Any, detections: Any, truths: Any, rules: Any, table: Any, aps: Any, worth: Any
) -> None:
    """`leave_one_out` for a slice of the images."""
    boxes, labels, scores, mask = detections
    needed_iou, area_ranges, max_detections = rules
    grouped, order, starts, ranked, values, sort, classed, uncounted, positives, choices, marks, wishes, taken, walk = (
        room
    )
    num_thresholds = len(needed_iou)
    for b in range(first, end):
        class_truths(b, truths, classed)
        count_positives(b, truths, classed, area_ranges[0], uncounted, positives)
        present = 0
        for label in range(1, len(positives)):
            present += positives[label] > 0
        if present == 0:
            continue
        group_by_label(labels[b], mask[b], starts, grouped)
        total = 0.0
        for label in range(1, len(positives)):
            start, stop = starts[label], starts[label + 1]
            if start == stop or positives[label] == 0:
                continue
            sort_by_score(grouped, scores[b], start, stop, order, ranked, sort)
            total += leave_out_of_class(
                boxes[b], order[start : min(stop, start + max_detections + 1)], label, classed, uncounted, rules,
                table[positives[label]], choices, marks, wishes, taken, walk, values,
            )  # fmt: skip
            for place in range(start, min(stop, start + max_detections)):
                worth[b, order[place]] = values[place - start] / present / num_thresholds
        aps[b] = total / present / num_thresholds


@compilable
def leave_out_of_class(
    boxes: Any, order: Any, label: int, classed: Any, uncounted: Any, rules: Any, weights: Any, choices: Any, marks: Any,
    wishes: Any, taken: Any, walk: Any, values: Any,
) -> float:  # fmt: skip
    """The AP of one class, summed over thresholds; `values` receives what each of its ranked detections is worth to it.

    The last of `order` may be the one that `max_detections` shuts out, which moves in when another goes. `choices` and all
    behind it are scratch memory; `taken` is left empty.
    """
    count, inside = len(order), min(len(order), rules.max_detections)
    hits, ignored, new_hits, new_ignored = marks
    partners, _, got, lengths, _ = choices
    crowds, first, end = classed.crowds, classed.starts[label], classed.starts[label + 1]
    match_class(boxes, order, first, end, classed, uncounted, rules, choices, hits, ignored, wishes, taken)
    base: float = ranked_ap(hits, ignored, 0, inside, weights, walk)
    in_a_run = False
    for gone in range(inside):
        if hits[gone] or ignored[gone]:
            in_a_run = False
        elif in_a_run:
            values[gone] = values[gone - 1]
            continue
        else:
            in_a_run = True
        for place in range(count):
            new_hits[place], new_ignored[place] = hits[place], ignored[place]
        new_hits[gone], new_ignored[gone] = 0, ALL_BITS
        if hits[gone] or ignored[gone]:
            for k in range(lengths[gone]):
                if not crowds[partners[gone, k]]:
                    taken[partners[gone, k]] |= got[gone, k]
            fill_vacancies(gone + 1, count, crowds, uncounted, choices, taken, new_hits, new_ignored)
            for g in range(first, end):
                taken[g] = 0
        values[gone] = base - ranked_ap(new_hits, new_ignored, 0, count, weights, walk)
    return base


@compilable
def match_class(
    boxes: Any, order: Any, first: int, end: int, classed: Any, uncounted: Any, rules: Any, choices: Any, hits: Any,
    ignored: Any, wishes: Any, taken: Any,
) -> None:  # fmt: skip
    """Match a class's ranked detections with its true boxes, `first` up to `end`: write `choices`, and hits and ignored."""
    needed_iou, low, high = rules.needed_iou, rules.area_ranges[0, 0], rules.area_ranges[0, 1]
    sides, crowds, (candidates, overlaps, close) = classed.sides, classed.crowds, wishes
    partners, passes, got, lengths, outside = choices
    for place in range(len(order)):
        hit, skip, length = np.uint32(0), np.uint32(0), 0
        box = box_of(boxes, order[place])
        area = (box[2] - box[0]) * (box[3] - box[1])
        outside[place] = area < low or area > high
        num_close = prefer(box, first, end, sides, crowds, needed_iou, candidates, overlaps, close)
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
                partners[place, length], passes[place, length], got[place, length] = g, close[k], bits
                length += 1
                if wanted:
                    skip |= bits
                else:
                    hit |= bits
        if outside[place]:
            skip |= needed
        hits[place], ignored[place], lengths[place] = hit, skip, length
    for g in range(first, end):
        taken[g] = 0


@compilable
def fill_vacancies(
    first: int, count: int, crowds: Any, uncounted: Any, choices: Any, vacant: Any, hits: Any, ignored: Any
) -> None:
    """Let the detections from `first` up to `count` move to true boxes that are vacant, where they prefer them."""
    partners, passes, got, lengths, outside = choices
    for place in range(first, count):
        length = lengths[place]
        if length == 0:
            continue
        undecided, hit, skip = ALL_BITS, np.uint32(0), np.uint32(0)
        for k in range(length):
            g, had = partners[place, k], got[place, k]
            moved_in = vacant[g] & passes[place, k] & undecided
            moved_out = had & ~undecided
            stays = had & undecided
            vacant[g] = vacant[g] & ~moved_in if crowds[g] else (vacant[g] & ~moved_in) | moved_out
            undecided &= ~(moved_in | stays)
            if uncounted[g]:
                skip |= moved_in | stays
            else:
                hit |= moved_in | stays
        if outside[place]:
            skip |= undecided
        hits[place], ignored[place] = hit, skip
