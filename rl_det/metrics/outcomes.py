"""The outcome of each detection at one IoU threshold, ranked by score, and what each score threshold displays of them.

Detections are matched as in COCO, and as in `rl_det.ap.matching` for one threshold; here the IoU with the true box is
kept too.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.compiled import compiled, inlined
from rl_det.ap.matching import MatchRoom, Rules, room_for_match, sort_by_score
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.preference import (
    box_of,
    class_truths,
    count_positives,
    group_by_label,
    prefer,
)
from rl_det.ap.threads import kept

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
    rules = Rules(needed_iou, np.array([options.area_range]), options.max_detections)
    m = _match_all(detections, truths, num_classes, rules)
    shown = np.flatnonzero(m.counted)
    ranked = shown[np.argsort(-m.scores[shown], kind="stable")]
    return Outcomes(
        scores=m.scores[ranked], labels=m.labels[ranked], correct=m.correct[ranked], iou=m.iou[ranked],
        positives=m.positives[1:], iou_threshold=iou_threshold,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What each of the N detections of B images is; of padding, nothing is true.

    `correct` ones have found a true box: `truth` is its place among the image's, and -1 for all others. `ignored` ones lie in a
    crowd, and are neither correct nor wrong.
    """

    correct: Bool[np.ndarray, "B N"]
    ignored: Bool[np.ndarray, "B N"]
    truth: Int64[np.ndarray, "B N"]


def verdicts(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, iou_threshold: float = CORRECT_IOU
) -> Verdicts:
    """Match all detections as `image_counts` does; ValueError on bad input, which it names."""
    m, image = _match_displayed(detections, truths, num_classes, iou_threshold)
    shape = detections.mask.shape
    correct, ignored, truth = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_), np.full(shape, -1)
    correct[image, m.place], ignored[image, m.place] = m.correct, ~m.counted
    truth[image, m.place] = np.where(m.correct, m.truth, -1)
    return Verdicts(correct=correct, ignored=ignored, truth=truth)


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """The numbers of found and missed true boxes and of spurious detections in each of B images, over all classes.

    `distance` is the sum of 1 - IoU over the found true boxes; `miscounted` is the sum over classes of the difference
    between the numbers of true boxes and of detections. A crowd, and what lies in it, counts in none of these.
    """

    found: Int64[np.ndarray, " B"]
    spurious: Int64[np.ndarray, " B"]
    missed: Int64[np.ndarray, " B"]
    miscounted: Int64[np.ndarray, " B"]
    distance: Float64[np.ndarray, " B"]
    iou_threshold: float = CORRECT_IOU


def image_counts(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, iou_threshold: float = CORRECT_IOU
) -> ImageCounts:
    """Match all detections at the threshold, as COCO does with all areas; ValueError on bad input, which it names."""
    m, image = _match_displayed(detections, truths, num_classes, iou_threshold)
    found, shown, distance = (
        np.bincount(image, weights, minlength=len(detections))
        for weights in (m.correct, m.counted, np.where(m.correct, 1 - m.iou, 0.0))
    )
    objects = _objects(truths, num_classes)
    excess = _by_class(image[m.counted], m.labels[m.counted], len(detections), num_classes) - objects
    return ImageCounts(
        found=found.astype(np.int64),
        spurious=(shown - found).astype(np.int64),
        missed=objects.sum(1) - found.astype(np.int64),
        miscounted=np.abs(excess).sum(1),
        distance=distance.astype(np.float64),  # bincount counts nothing in integers
        iou_threshold=iou_threshold,
    )


@dataclass(frozen=True, kw_only=True)
class ThresholdCounts:
    """What a data set displays at each score threshold: the sums of its `ImageCounts`, from the highest threshold on.

    The first threshold is infinity, at which nothing is displayed; the others are the distinct scores of the detections
    that count. Detections from a threshold on are displayed.
    """

    thresholds: Float64[np.ndarray, " T"]
    found: Int64[np.ndarray, " T"]
    spurious: Int64[np.ndarray, " T"]
    missed: Int64[np.ndarray, " T"]
    miscounted: Int64[np.ndarray, " T"]
    distance: Float64[np.ndarray, " T"]
    iou_threshold: float = CORRECT_IOU


def threshold_counts(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, iou_threshold: float = CORRECT_IOU
) -> ThresholdCounts:
    """Match once and count at all thresholds, exactly; ValueError on bad input, which it names.

    A detection's match depends only on detections that rank above it, so a threshold does not change it, and each count is
    a running sum over detections by falling score. Of one image and class, the first detections bring the number of
    detections nearer to the number of objects, and those beyond that number take it away.
    """
    m, image = _match_displayed(detections, truths, num_classes, iou_threshold)
    shown, objects = m.counted, _objects(truths, num_classes)
    group = image[shown] * num_classes + m.labels[shown] - 1  # rises, and scores fall within a group
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    steps = np.stack(
        [m.correct[shown], ~m.correct[shown], -m.correct[shown].astype(np.int64),
         np.where(rank < objects.ravel()[group], -1, 1), np.where(m.correct, 1 - m.iou, 0.0)[shown]]
    )  # fmt: skip
    scores = m.scores[shown]
    order = np.argsort(-scores, kind="stable")
    last = last_of_equals(scores[order])
    nothing = np.array([[0], [0], [objects.sum()], [objects.sum()], [0]], dtype=np.float64)
    sums = np.concatenate([nothing, nothing + np.cumsum(steps[:, order], 1)[:, last]], 1)
    found, spurious, missed, miscounted = sums[:4].astype(np.int64)
    return ThresholdCounts(
        thresholds=np.append(np.inf, scores[order][last]), found=found, spurious=spurious, missed=missed,
        miscounted=miscounted, distance=sums[4], iou_threshold=iou_threshold,
    )  # fmt: skip


def last_of_equals(scores: Float64[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Which of M falling scores are the last of their equals: where a threshold may cut, as it cannot part equal scores."""
    return np.append(np.diff(scores) != 0, True)[: len(scores)]


def _match_displayed(
    detections: DetectionBatch, truths: TruthBatch, num_classes: int, iou_threshold: float
) -> tuple["AllOutcomes", Int64[np.ndarray, " M"]]:
    """All detections, of any size and however many, matched at one threshold; and the image of each."""
    check(detections, truths, num_classes)
    needed_iou = replace(COCO, iou_thresholds=(iou_threshold,)).needed_iou
    rules = Rules(needed_iou, np.array([[0.0, np.inf]]), 2**31 - 1)
    image = np.repeat(np.arange(len(detections)), detections.mask.sum(1))
    return _match_all(detections, truths, num_classes, rules), image


def _objects(truths: TruthBatch, num_classes: int) -> Int64[np.ndarray, "B C"]:
    """The number of true boxes of each image and class, without crowds."""
    rows, places = np.nonzero(truths.mask & ~truths.iscrowd)
    return _by_class(rows, truths.labels[rows, places], len(truths), num_classes)


def _by_class(
    images: Int64[np.ndarray, " M"], labels: Int[np.ndarray, " M"], num_images: int, num_classes: int
) -> Int64[np.ndarray, "B C"]:
    """How many of M boxes are of each image and label."""
    places = images * num_classes + labels - 1
    return np.bincount(places, minlength=num_images * num_classes).reshape(num_images, num_classes)


class AllOutcomes(NamedTuple):
    """Of each of the M detections, image by image and class by class: is it correct, with which IoU, does it count?"""

    scores: np.ndarray  # [M]
    labels: np.ndarray  # [M]
    correct: np.ndarray  # [M]
    iou: np.ndarray  # [M]
    counted: np.ndarray  # [M]
    place: np.ndarray  # [M], its index in its image
    truth: np.ndarray  # [M], that of the true box that it got
    positives: np.ndarray  # [C + 1]


def _match_all(detections: DetectionBatch, truths: TruthBatch, num_classes: int, rules: Rules) -> AllOutcomes:
    count = int(detections.mask.sum())
    found = AllOutcomes(
        scores=np.zeros(count), labels=np.zeros(count, dtype=np.int64), correct=np.zeros(count, dtype=np.bool_),
        iou=np.zeros(count), counted=np.zeros(count, dtype=np.bool_), place=np.zeros(count, dtype=np.int64),
        truth=np.full(count, -1), positives=np.zeros(num_classes + 1, dtype=np.int64),
    )  # fmt: skip
    room = room_for_outcomes(detections.mask.shape[1], truths.mask.shape[1], num_classes)
    _outcomes(room, detections.arrays, truths.arrays, rules, found)
    return found


class OutcomesRoom(NamedTuple):
    """Scratch memory for one image after another."""

    match: MatchRoom
    starts: np.ndarray  # [C + 2]
    order: np.ndarray  # [N]
    scores: np.ndarray  # [N]
    positives: np.ndarray  # [C + 1]


@kept
def room_for_outcomes(num_detections: int, num_truths: int, num_classes: int) -> OutcomesRoom:
    """`OutcomesRoom`."""
    return OutcomesRoom(
        match=room_for_match(num_detections, num_truths, num_classes, 1),
        starts=np.zeros(num_classes + 2, dtype=np.int32),
        order=np.zeros(num_detections, dtype=np.int32),
        scores=np.zeros(num_detections),
        positives=np.zeros(num_classes + 1, dtype=np.int32),
    )


@compiled
def _outcomes(room: Any, detections: Any, truths: Any, rules: Any, outcome: Any) -> None:
    """Write `AllOutcomes`."""
    ranked, all_labels, correct, ious, counted, all_places, all_truths, positives = outcome
    (grouped, sort, classed, (places, overlaps, passes), all_uncounted, all_taken), starts, order, image_scores, own = (
        room
    )
    uncounted, taken, sides, crowds = all_uncounted[0], all_taken[0], classed.sides, classed.crowds
    low, high, first = rules.area_ranges[0, 0], rules.area_ranges[0, 1], 0
    for b in range(len(detections.labels)):
        class_truths(b, truths, classed)
        count_positives(b, truths, classed, rules.area_ranges[0], uncounted, own)
        for label in range(len(own)):
            positives[label] += own[label]
        for g in range(len(taken)):
            taken[g] = 0
        group_by_label(detections.labels[b], detections.mask[b], starts, grouped)
        for label in range(1, len(own)):
            start, end = starts[label], starts[label + 1]
            true_start, true_end = classed.starts[label], classed.starts[label + 1]
            sort_by_score(grouped, detections.scores[b], start, end, order, image_scores, sort)
            for place in range(start, end):
                n = first + place
                ranked[n], all_labels[n], all_places[n] = image_scores[place], label, order[place]
                if place >= start + rules.max_detections:
                    continue
                box = box_of(detections.boxes[b], order[place])
                close = prefer(box, true_start, true_end, sides, crowds, rules.needed_iou, places, overlaps, passes)
                k = found(close, places, uncounted, crowds, taken)
                if k < 0:
                    counted[n] = low <= (box[2] - box[0]) * (box[3] - box[1]) <= high
                    continue
                g = places[k]
                taken[g], all_truths[n] = 1, classed.order[g]
                correct[n], counted[n] = not uncounted[g], not uncounted[g]
                ious[n] = overlaps[k] if correct[n] else 0.0
        first += starts[-1]


@inlined
def found(count: int, places: Any, uncounted: Any, crowds: Any, taken: Any) -> int:
    """Which of its wishes a detection gets: the best that counts and is free, else the best that does not count; or -1."""
    for wanted in (False, True):
        for k in range(count):
            g = places[k]
            if uncounted[g] == wanted and (crowds[g] or not taken[g]):
                return k
    return -1
