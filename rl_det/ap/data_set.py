"""Matches of all images, taken as one data set -> each class's AP, recall and precision-recall curve; COCO's twelve figures.

The detections of a class rank together, by falling score, of equals those of the earlier image, as in pycocotools.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt32

from rl_det.ap.average_precision import EPSILON, Walk, ranked_ap, room_for_walk
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.compiled import compiled
from rl_det.ap.matching import Matches, match_ranges
from rl_det.ap.options import AREA_RANGES, COCO, CocoOptions
from rl_det.ap.sorting import SortRoom, room_for_sort, sort_falling
from rl_det.ap.threads import share_out

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def class_ap(matches: Matches, options: CocoOptions = COCO) -> Float64[np.ndarray, "A T C"]:
    """AP of each class at each IoU threshold, in [0, 1]; NaN for a class without a true box that counts."""
    positives = matches.positives.sum(1, dtype=np.int64)
    table, rows = _weights(positives, options)
    num_ranges, num_classes = positives.shape[0], positives.shape[1] - 1
    num_thresholds, size = len(options.iou_thresholds), int(matches.sizes.max())
    aps = np.zeros((num_ranges, num_thresholds, num_classes))
    share_out(
        _class_ap, num_classes, lambda: room_for_list(size, num_thresholds), matches.starts, matches.scores,
        matches.hits, matches.ignored, table, rows, aps,
    )  # fmt: skip
    return np.where(positives[:, None, 1:] > 0, aps, np.nan)


def mean_ap(matches: Matches, options: CocoOptions = COCO) -> float:
    """COCO's AP of the first area range: the mean over classes and IoU thresholds, in [0, 1]; NaN without a true box."""
    return _mean(class_ap(matches, options)[0])


def class_precision(matches: Matches, options: CocoOptions = COCO) -> Float64[np.ndarray, "A T R C"]:
    """The precision-recall curve of each class: its interpolated precision at each of the options' recall points.

    0 at recalls that are not reached; NaN for a class without a true box that counts. A curve's mean is the class's AP.
    """
    positives = matches.positives.sum(1, dtype=np.int64)[:, 1:]
    num_ranges, num_classes = positives.shape
    bits = np.arange(len(options.iou_thresholds), dtype=np.uint32)[:, None]
    points = np.asarray(options.recall_points)
    curves = np.full((num_ranges, len(bits), len(points), num_classes), np.nan)
    for c in range(num_classes):
        hits, ignored = _ranked(matches, label=c + 1)
        for a in np.flatnonzero(positives[:, c]).tolist():
            found, skipped = hits[a] >> bits & 1, ignored[a] >> bits & 1
            for t, curve in enumerate(_envelopes(found == 1, skipped == 1)):
                reached = np.searchsorted(np.arange(1, positives[a, c] + 1) / positives[a, c], points, side="left")
                curves[a, t, :, c] = np.append(curve, np.zeros(positives[a, c]))[reached]
    return curves


def _ranked(matches: Matches, label: int) -> tuple[UInt32[np.ndarray, "A M"], UInt32[np.ndarray, "A M"]]:
    """The hits and the ignored of one class over all images, by falling score."""
    spans = [range(*row) for row in matches.starts[:, label : label + 2].tolist()]
    images = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
    places = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    order = np.argsort(-matches.scores[images, places], kind="mergesort")
    images, places = images[order], places[order]
    return matches.hits[:, images, places], matches.ignored[:, images, places]


def _envelopes(found: Bool[np.ndarray, "T M"], skipped: Bool[np.ndarray, "T M"]) -> list[Float64[np.ndarray, " K"]]:
    """For each threshold the highest precision from each true positive on."""
    correct, wrong = np.cumsum(found, 1), np.cumsum(~found & ~skipped, 1)
    precision = correct / (correct + wrong + EPSILON)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return [row[hit] for row, hit in zip(envelope, found, strict=True)]


def class_recall(matches: Matches, max_detections: int, options: CocoOptions = COCO) -> Float64[np.ndarray, "A T C"]:
    """The share of each class's true boxes that its best `max_detections` in each image find; NaN where there is none.

    At most those with which the matches were made, `options.max_detections`, can be told.
    """
    positives = matches.positives.sum(1, dtype=np.int64)[:, None, 1:]
    num_ranges, _, num_classes = positives.shape
    found = np.zeros((num_ranges, len(options.iou_thresholds), num_classes), dtype=np.int64)
    share_out(_class_found, num_classes, tuple, matches.starts, matches.hits, max_detections, found)
    return np.where(positives > 0, found / np.maximum(positives, 1), np.nan)


def coco_figures(detections: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> dict[str, float]:
    """COCO's twelve figures by their usual names, in [0, 1]; NaN where pycocotools says -1 (no true box of that size)."""
    ranges = tuple(AREA_RANGES.values())
    matches = match_ranges(detections, truths, ranges, num_classes=num_classes)
    ap, recall = class_ap(matches), class_recall(matches, COCO.max_detections)
    by_count = [class_recall(matches, count)[0] for count in (1, 10)]
    parts = (ap[0], ap[0, 0], ap[0, 5], *ap[1:], *by_count, recall[0], *recall[1:])
    return {name: _mean(part) for name, part in zip(FIGURES, parts, strict=True)}


def _mean(figures: Float64[np.ndarray, "..."]) -> float:
    """The mean over what there is; NaN where there is nothing."""
    present = figures[~np.isnan(figures)]
    return float(present.mean()) if present.size else float("nan")


def _weights(positives: np.ndarray, options: CocoOptions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of recall weights, one for each count of positives that occurs, and which row each range and class needs."""
    counts, rows = np.unique(positives, return_inverse=True)
    table = np.zeros((len(counts), int(counts.max(initial=0)) + 1))
    for row, count in zip(table, counts.tolist(), strict=True):
        row[: count + 1] = options.recall_weights.of(count)
    return table, rows.reshape(positives.shape)


class ListRoom(NamedTuple):
    """Room for one class's ranked list of up to M detections: where each stands, and what it matches."""

    sort: SortRoom
    images: np.ndarray  # [M]
    places: np.ndarray  # [M]
    hits: np.ndarray  # [M]
    ignored: np.ndarray  # [M]
    walk: Walk


def room_for_list(size: int, num_thresholds: int) -> ListRoom:
    """Empty `ListRoom`."""
    return ListRoom(
        room_for_sort(size), np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32),
        np.zeros(size, dtype=np.uint32), np.zeros(size, dtype=np.uint32), room_for_walk(num_thresholds),
    )  # fmt: skip


@compiled
def _class_ap(
    first: int, end: int, room: Any, starts: Any, scores: Any, hits: Any, ignored: Any, table: Any, rows: Any, aps: Any
) -> None:
    """`class_ap` of a slice of the classes."""
    num_ranges, num_images, _ = hits.shape
    sort, images, places, hit, skip, walk = room
    keys, order, _, _ = sort
    for c in range(first, end):
        label, count = c + 1, 0
        for b in range(num_images):
            for place in range(starts[b, label], starts[b, label + 1]):
                keys[count], order[count], images[count], places[count] = scores[b, place], count, b, place
                count += 1
        sort_falling(sort, count)
        for a in range(num_ranges):
            for k in range(count):
                b, place = images[order[k]], places[order[k]]
                hit[k], skip[k] = hits[a, b, place], ignored[a, b, place]
            ranked_ap(hit, skip, 0, count, table[rows[a, label]], walk)
            for t in range(len(walk.areas)):
                aps[a, t, c] = walk.areas[t]


@compiled
def _class_found(first: int, end: int, _: Any, starts: Any, hits: Any, max_detections: int, found: Any) -> None:
    """How many true boxes of each of a slice of the classes are found at each threshold."""
    num_ranges, num_images, _ = hits.shape
    num_thresholds = found.shape[1]
    for c in range(first, end):
        for a in range(num_ranges):
            for b in range(num_images):
                start = starts[b, c + 1]
                for place in range(start, min(start + max_detections, starts[b, c + 2])):
                    if hits[a, b, place]:
                        for t in range(num_thresholds):
                            found[a, t, c] += (hits[a, b, place] >> t) & 1
