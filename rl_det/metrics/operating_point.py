"""Operating points: the score threshold that a user would set, with its F1, precision, recall and LRP."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from rl_det.metrics.outcomes import Outcomes, last_of_equals


class OperatingPoint(NamedTuple):
    """A score threshold (detections from it on are shown), and its F1, precision and recall in [0, 1]."""

    threshold: float
    f1: float
    precision: float
    recall: float


class OptimalLrp(NamedTuple):
    """A score threshold (detections from it on are shown), and its LRP error and parts, in [0, 1], lower is better.

    `localisation` is the mean of 1 - IoU of the correct detections (NaN if there are none), `false_positives` is 1 -
    precision, `false_negatives` is 1 - recall.
    """

    threshold: float
    error: float
    localisation: float
    false_positives: float
    false_negatives: float


NOTHING = OperatingPoint(1.0, 0.0, 0.0, 0.0)


def operating_point(outcomes: Outcomes, threshold: float) -> OperatingPoint:
    """F1, precision and recall of all classes together at a threshold.

    Each is 0 if no detection is shown or no object exists.
    """
    shown = outcomes.scores >= threshold
    return _point(threshold, int(outcomes.correct[shown].sum()), int(shown.sum()), int(outcomes.positives.sum()))


def f1_by_class_thresholds(outcomes: Outcomes, thresholds: Sequence[float]) -> float:
    """F1 of all classes together, where each label 1..C has its own threshold (of `best_f1_by_class`, for instance)."""
    shown = outcomes.scores >= np.asarray(thresholds)[outcomes.labels - 1]
    return _point(0.0, int(outcomes.correct[shown].sum()), int(shown.sum()), int(outcomes.positives.sum())).f1


def best_f1(outcomes: Outcomes) -> OperatingPoint:
    """The operating point of the highest F1 over all classes; of equals, the highest threshold.

    Without detections or without objects the F1 is 0 at threshold 1.
    """
    objects = int(outcomes.positives.sum())
    if not len(outcomes) or not objects:
        return NOTHING
    shown, found = _cuts(outcomes)
    best = int((2 * found / (shown + objects)).argmax())
    return _point(float(outcomes.scores[shown[best] - 1]), int(found[best]), int(shown[best]), objects)


def best_f1_by_class(outcomes: Outcomes) -> list[OperatingPoint]:
    """`best_f1` of each label 1..C by itself: the thresholds to set if each class has its own."""
    return [best_f1(outcomes.of_class(label)) for label in range(1, len(outcomes.positives) + 1)]


def optimal_lrp(outcomes: Outcomes) -> OptimalLrp:
    """The least localisation-recall-precision error over all thresholds (Oksuz et al. 2018).

    For the true positives, false positives and false negatives of a threshold, at matching IoU tau, the error is

        (sum over TP of (1 - IoU) / (1 - tau) + #FP + #FN) / (#TP + #FP + #FN)

    The paper tries 101 thresholds. We try every threshold that makes a difference, and showing nothing (threshold
    infinity, error 1). Of equals, we take the highest. It is meant for one class (`Outcomes.of_class`). All figures are
    NaN if there is nothing to find.
    """
    objects = int(outcomes.positives.sum())
    if not objects:
        return OptimalLrp(*[float("nan")] * 5)
    shown, found = _cuts(outcomes)
    losses = np.append(0.0, np.cumsum(np.where(outcomes.correct, 1 - outcomes.iou, 0.0)))[shown]
    errors = (losses / (1 - outcomes.iou_threshold) + (shown - found) + (objects - found)) / (shown + objects - found)
    if not len(errors) or errors.min() >= 1:
        return OptimalLrp(float("inf"), 1.0, float("nan"), 0.0, 1.0)
    best = int(errors.argmin())
    count = int(found[best])
    return OptimalLrp(
        threshold=float(outcomes.scores[shown[best] - 1]),
        error=float(errors[best]),
        localisation=float(losses[best] / count) if count else float("nan"),
        false_positives=float(1 - found[best] / shown[best]),
        false_negatives=float(1 - found[best] / objects),
    )


def mean_optimal_lrp(outcomes: Outcomes) -> float:
    """moLRP: the mean of the optimal LRP errors of the classes that have true boxes, in [0, 1]; NaN if there are none."""
    errors = [
        optimal_lrp(outcomes.of_class(label)).error for label in (1 + np.flatnonzero(outcomes.positives)).tolist()
    ]
    return float(np.mean(errors)) if errors else float("nan")


def _point(threshold: float, found: int, shown: int, objects: int) -> OperatingPoint:
    if not shown or not objects:
        return NOTHING._replace(threshold=threshold)
    return OperatingPoint(threshold, 2 * found / (shown + objects), found / shown, found / objects)


def _cuts(outcomes: Outcomes) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """The numbers of shown and of correct detections at each threshold that makes a difference, most severe first."""
    last = last_of_equals(outcomes.scores)
    shown = 1 + np.flatnonzero(last)
    running: Int64[np.ndarray, " M"] = np.cumsum(outcomes.correct)
    return shown, running[last]
