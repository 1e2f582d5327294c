"""Detections and targets of a split -> all the figures of a report."""

from collections.abc import Sequence

from rl_det.metrics.calibration import detection_calibration_error, scored
from rl_det.metrics.coco import coco_summary
from rl_det.metrics.operating_point import best_f1
from rl_det.types import Detections, Target


def evaluate(detections: Sequence[Detections], targets: Sequence[Target], *, num_classes: int) -> dict[str, float]:
    """COCO's twelve figures, the calibration error, and the best F1 with its threshold; all in [0, 1]."""
    scores, correct = scored(detections, targets)
    point = best_f1(scores, correct, sum(int((~target.iscrowd).sum()) for target in targets))
    return {
        **coco_summary(detections, targets, num_classes=num_classes),
        "calibration_error": detection_calibration_error(scores, correct),
        "F1": point.f1,
        "F1_threshold": point.threshold,
    }
