"""Detections and true boxes of B images -> what each detection is worth: AP as it is minus AP without it, all N at once.

Nothing is evaluated from scratch. Only the detection's own class can change, and in it:

1. A false positive that takes part in the ranking, once gone, moves those below it up by one. All false positives between
   the same two neighbours that matched are worth the same: one walk for each such run.
2. A detection that matched frees its true box for the detections below, one of which may take it and free another: a
   vacancy chain. One walk down the list follows the chains of all IoU thresholds at once, as bits.
3. A detection that was shut out by `max_detections` moves in.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64
from numba import prange

from rl_det.ap.average_precision import ranked_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import (
    ALL_BITS,
    NUM_CHUNKS,
    count_positives,
    gather_truths,
    group_by_label,
    prefer,
    sort_by_score,
)
from rl_det.ap.options import COCO, CocoOptions


def leave_one_out(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, options: CocoOptions = COCO
) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N"]]:
    """Each image's AP (`image_ap`) and what it would lose without detection n, in mAP; negative where it would gain.

    0 for padding, for detections of classes that the image does not hold, and in images whose AP is NaN.
    """
    check(detections, truths, num_classes)
    d, t = detections, truths
    table = options.recall_weights.up_to(t.mask.shape[1])
    aps: tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N"]] = _leave_one_out(
        d.boxes, d.labels, d.scores, d.mask, t.boxes, t.labels, t.area, t.iscrowd, t.mask,
        num_classes, options.needed_iou, np.array(options.area_range), options.max_detections, table,
    )  # fmt: skip
    return aps


@compiled_in_parallel
def _leave_one_out(
    boxes: Any, labels: Any, scores: Any, mask: Any,
    true_boxes: Any, true_labels: Any, true_area: Any, crowd: Any, true_mask: Any,
    num_classes: int, needed_iou: Any, area_range: Any, max_detections: int, table: Any,
) -> Any:  # fmt: skip
    """`leave_one_out` for all images, in chunks that have their scratch memory to themselves."""
    num_images, num_detections = labels.shape
    num_truths, num_thresholds = true_labels.shape[1], len(needed_iou)
    aps, worth = np.full(num_images, np.nan), np.zeros((num_images, num_detections))
    chunk = (num_images + NUM_CHUNKS - 1) // NUM_CHUNKS
    for first in prange(NUM_CHUNKS):
        grouped, order = np.zeros(num_detections, dtype=np.int32), np.zeros(num_detections, dtype=np.int32)
        starts, true_starts = np.zeros(num_classes + 2, dtype=np.int32), np.zeros(num_classes + 2, dtype=np.int32)
        ranked, keys = np.zeros(num_detections), np.zeros(num_detections)
        true_order = np.zeros(num_truths, dtype=np.int32)
        truths, crowds = np.zeros((5, num_truths)), np.zeros(num_truths, dtype=np.bool_)
        uncounted, positives = np.zeros(num_truths, dtype=np.bool_), np.zeros(num_classes + 1, dtype=np.int32)
        values = np.zeros(num_detections)
        for b in range(first * chunk, min((first + 1) * chunk, num_images)):
            group_by_label(true_labels[b], true_mask[b], true_starts, true_order)
            gather_truths(true_order, true_starts[-1], true_boxes[b], crowd[b], truths, crowds)
            count_positives(
                true_order, true_starts[-1], true_labels[b], true_area[b], crowd[b], area_range, uncounted, positives
            )
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
                own = slice(true_starts[label], true_starts[label + 1])
                total += leave_out_of_class(
                    boxes[b], order[start : min(end, start + max_detections + 1)], max_detections,
                    truths[:, own].copy(), crowds[own], uncounted[own], needed_iou, area_range,
                    table[positives[label]], values,
                )  # fmt: skip
                for place in range(start, min(end, start + max_detections)):
                    worth[b, order[place]] = values[place - start] / present / num_thresholds
            aps[b] = total / present / num_thresholds
    return aps, worth


@compiled
def leave_out_of_class(
    boxes: Any, order: Any, max_detections: int, truths: Any, crowds: Any, uncounted: Any, needed_iou: Any,
    area_range: Any, weights: Any, values: Any,
) -> float:  # fmt: skip
    """The AP of one class, summed over thresholds; `values` receives what each of its ranked detections is worth to it.

    The last of `order` may be the one that `max_detections` shuts out; `before` are the outcomes with it shut out, `after` with
    it let in.
    """
    count, num_thresholds = len(order), len(needed_iou)
    inside = min(count, max_detections)
    partners = np.empty((count, len(crowds)), dtype=np.int32)
    passes, got = np.empty((count, len(crowds)), dtype=np.uint32), np.empty((count, len(crowds)), dtype=np.uint32)
    lengths = np.zeros(count, dtype=np.int64)
    outside = np.zeros(count, dtype=np.bool_)
    hits, ignored = np.zeros(count, dtype=np.uint32), np.zeros(count, dtype=np.uint32)
    match_class(
        boxes, order, truths, crowds, uncounted, needed_iou, area_range, partners, passes, got, lengths, outside,
        hits, ignored,
    )  # fmt: skip
    found, skipped = np.zeros(num_thresholds, dtype=np.int64), np.zeros(num_thresholds, dtype=np.int64)
    envelope, areas = np.zeros(num_thresholds), np.zeros(num_thresholds)
    base: float = ranked_ap(hits, ignored, 0, inside, weights, found, skipped, envelope, areas)
    new_hits, new_ignored = np.zeros(count, dtype=np.uint32), np.zeros(count, dtype=np.uint32)
    vacant = np.zeros(len(crowds), dtype=np.uint32)
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
                if not crowds[partners[gone, k]]:
                    vacant[partners[gone, k]] |= got[gone, k]
            fill_vacancies(
                gone + 1, crowds, uncounted, partners, passes, got, lengths, outside, vacant, new_hits, new_ignored
            )
        values[gone] = base - ranked_ap(new_hits, new_ignored, 0, count, weights, found, skipped, envelope, areas)
    return base


@compiled
def match_class(
    boxes: Any, order: Any, truths: Any, crowds: Any, uncounted: Any, needed_iou: Any, area_range: Any,
    partners: Any, passes: Any, got: Any, lengths: Any, outside: Any, hits: Any, ignored: Any,
) -> None:  # fmt: skip
    """Match a class's ranked detections; keep of each whom it prefers, in that order, and at which bits it got whom."""
    taken = np.zeros(len(crowds), dtype=np.uint32)
    candidates, overlaps = np.empty(len(crowds), dtype=np.int32), np.empty(len(crowds))
    close = np.empty(len(crowds), dtype=np.uint32)
    for place in range(len(order)):
        i = order[place]
        box = (
            np.float64(boxes[i, 0]), np.float64(boxes[i, 1]), np.float64(boxes[i, 2]), np.float64(boxes[i, 3])
        )  # fmt: skip
        area = (box[2] - box[0]) * (box[3] - box[1])
        outside[place] = area < area_range[0] or area > area_range[1]
        count = prefer(box, truths, crowds, 0, len(crowds), needed_iou, candidates, overlaps, close)
        needed = ALL_BITS
        for wanted in (False, True):
            for k in range(count):
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


@compiled
def fill_vacancies(
    first: int, crowds: Any, uncounted: Any, partners: Any, passes: Any, got: Any, lengths: Any, outside: Any,
    vacant: Any, hits: Any, ignored: Any,
) -> None:  # fmt: skip
    """Let the detections from `first` on move to true boxes that are vacant, where they prefer them; `vacant` is left empty."""
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
