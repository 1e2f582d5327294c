"""The outcome of each detection at one IoU threshold, ranked by score: the input of operating points.

Detections are matched as in COCO, and as in `rl_det.ap.matching` for one threshold; here the IoU with the true box is
kept too.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled
from rl_det.ap.matching import count_positives, gather_truths, group_by_label, prefer, sort_by_score
from rl_det.ap.options import COCO, CocoOptions

CORRECT_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The M detections of all images that count (not in a crowd, ...), by falling score; equal scores by image and label.

    `iou` is the IoU with the matched true box, and 0 for incorrect detections. `positives` is the number of true boxes
    to find of each label 1..C.
    """

    scores: Float64[np.ndarray, " M"]
    labels: Int64[np.ndarray, " M"]
    correct: Bool[np.ndarray, " M"]
    iou: Float64[np.ndarray, " M"]
    positives: Int64[np.ndarray, " C"]
    iou_threshold: float = CORRECT_IOU

    def __len__(self) -> int:
        return len(self.scores)

    def of_class(self, label: int) -> "Outcomes":
        """The outcomes of one label."""
        own = self.labels == label
        positives = np.zeros_like(self.positives)
        positives[label - 1] = self.positives[label - 1]
        return replace(
            self, scores=self.scores[own], labels=self.labels[own], correct=self.correct[own], iou=self.iou[own],
            positives=positives,
        )  # fmt: skip


def outcomes(
    detections: DetectionBatch,
    truths: TruthBatch,
    *,
    num_classes: int,
    iou_threshold: float = CORRECT_IOU,
    options: CocoOptions = COCO,
) -> Outcomes:
    """Match at the threshold, with the options' area range and `max_detections`; ValueError on bad input, which it names."""
    check(detections, truths, num_classes)
    needed_iou = replace(options, iou_thresholds=(iou_threshold,)).needed_iou
    d, t = detections, truths
    scores, labels, correct, iou, counted, positives = _outcomes(
        d.boxes, d.labels, d.scores, d.mask, t.boxes, t.labels, t.area, t.iscrowd, t.mask,
        num_classes, needed_iou, np.array(options.area_range), options.max_detections,
    )  # fmt: skip
    shown = np.flatnonzero(counted)
    ranked = shown[np.argsort(-scores[shown], kind="stable")]
    return Outcomes(
        scores=scores[ranked], labels=labels[ranked], correct=correct[ranked], iou=iou[ranked],
        positives=positives[1:], iou_threshold=iou_threshold,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """The numbers of found and missed true boxes and of spurious detections in each of B images, over all classes.

    `distance` is the sum of 1 - IoU over the found true boxes.
    """

    found: Int64[np.ndarray, " B"]
    spurious: Int64[np.ndarray, " B"]
    missed: Int64[np.ndarray, " B"]
    distance: Float64[np.ndarray, " B"]
    iou_threshold: float = CORRECT_IOU


def image_counts(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, iou_threshold: float = CORRECT_IOU
) -> ImageCounts:
    """Match all detections at the threshold, as COCO does with all areas; ValueError on bad input, which it names."""
    check(detections, truths, num_classes)
    d, t = detections, truths
    _, _, correct, iou, counted, _ = _outcomes(
        d.boxes, d.labels, d.scores, d.mask, t.boxes, t.labels, t.area, t.iscrowd, t.mask,
        num_classes, replace(COCO, iou_thresholds=(iou_threshold,)).needed_iou, np.array([0.0, np.inf]), 2**31 - 1,
    )  # fmt: skip
    image = np.repeat(np.arange(len(d)), d.mask.sum(1))
    found, shown, distance = (
        np.bincount(image, weights, minlength=len(d)) for weights in (correct, counted, np.where(correct, 1 - iou, 0.0))
    )
    objects = (t.mask & ~t.iscrowd).sum(1)
    return ImageCounts(
        found=found.astype(np.int64),
        spurious=(shown - found).astype(np.int64),
        missed=objects - found.astype(np.int64),
        distance=distance.astype(np.float64),  # bincount counts nothing in integers
        iou_threshold=iou_threshold,
    )


@compiled
def _outcomes(
    boxes: Any, labels: Any, scores: Any, mask: Any,
    true_boxes: Any, true_labels: Any, true_area: Any, crowd: Any, true_mask: Any,
    num_classes: int, needed_iou: Any, area_range: Any, max_detections: int,
) -> Any:  # fmt: skip
    """For each detection, image by image and class by class: whether it is correct, its IoU, and whether it counts."""
    num_images, num_detections = labels.shape
    num_truths, count = true_labels.shape[1], mask.sum()
    ranked, all_labels = np.zeros(count), np.zeros(count, dtype=np.int64)
    correct, counted, ious = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_), np.zeros(count)
    starts, grouped = np.zeros(num_classes + 2, dtype=np.int32), np.zeros(num_detections, dtype=np.int32)
    order, image_scores, keys = (
        np.zeros(num_detections, dtype=np.int32),
        np.zeros(num_detections),
        np.zeros(num_detections),
    )
    true_starts, true_order = np.zeros(num_classes + 2, dtype=np.int32), np.zeros(num_truths, dtype=np.int32)
    truths, crowds = np.zeros((5, num_truths)), np.zeros(num_truths, dtype=np.bool_)
    uncounted, taken = np.zeros(num_truths, dtype=np.bool_), np.zeros(num_truths, dtype=np.bool_)
    candidates, overlaps = np.zeros(num_truths, dtype=np.int32), np.zeros(num_truths)
    passes = np.zeros(num_truths, dtype=np.uint32)
    positives, image_positives = np.zeros(num_classes + 1, dtype=np.int64), np.zeros(num_classes + 1, dtype=np.int64)
    first = 0
    for b in range(num_images):
        group_by_label(true_labels[b], true_mask[b], true_starts, true_order)
        gather_truths(true_order, true_starts[-1], true_boxes[b], crowd[b], truths, crowds)
        count_positives(
            true_order, true_starts[-1], true_labels[b], true_area[b], crowd[b], area_range, uncounted, image_positives
        )
        positives += image_positives
        taken[:] = False
        group_by_label(labels[b], mask[b], starts, grouped)
        for label in range(1, num_classes + 1):
            start, end = starts[label], starts[label + 1]
            sort_by_score(grouped, scores[b], start, end, order, image_scores, keys)
            for place in range(start, end):
                n, i = first + place, order[place]
                ranked[n], all_labels[n] = image_scores[place], label
                if place >= start + max_detections:
                    continue
                box = (
                    np.float64(boxes[b, i, 0]), np.float64(boxes[b, i, 1]),
                    np.float64(boxes[b, i, 2]), np.float64(boxes[b, i, 3]),
                )  # fmt: skip
                area = (box[2] - box[0]) * (box[3] - box[1])
                close = prefer(
                    box,
                    truths,
                    crowds,
                    true_starts[label],
                    true_starts[label + 1],
                    needed_iou,
                    candidates,
                    overlaps,
                    passes,
                )
                k = found(candidates, close, uncounted, crowds, taken)
                if k < 0:
                    counted[n] = area_range[0] <= area <= area_range[1]
                    continue
                taken[candidates[k]] = True
                correct[n] = counted[n] = not uncounted[candidates[k]]
                ious[n] = overlaps[k] if correct[n] else 0.0
        first += starts[-1]
    return ranked, all_labels, correct, ious, counted, positives


@compiled
def found(candidates: Any, count: int, uncounted: Any, crowds: Any, taken: Any) -> int:
    """The place, among a detection's candidate boxes, of the best free one that counts, else of one that does not; or -1."""
    for wanted in (False, True):
        for k in range(count):
            g = candidates[k]
            if uncounted[g] == wanted and (crowds[g] or not taken[g]):
                return k
    return -1
