"""Detections and targets of a split -> all the figures of a report."""

from collections.abc import Sequence

from rl_det.metrics.calibration import detection_calibration_error, score_iou_correlation
from rl_det.metrics.coco import coco_summary
from rl_det.metrics.operating_point import best_f1, mean_optimal_lrp
from rl_det.metrics.outcomes import outcomes
from rl_det.metrics.padding import pad_detections, pad_targets
from rl_det.types import Detections, Target


def evaluate(detections: Sequence[Detections], targets: Sequence[Target], *, num_classes: int) -> dict[str, float]:
    """COCO's twelve figures by pycocotools; at IoU 0.5, the best F1 with its threshold, moLRP, calibration and correlation."""
    summary = coco_summary(detections, targets, num_classes=num_classes)
    found = outcomes(pad_detections(detections), pad_targets(targets), num_classes=num_classes)
    point = best_f1(found)
    return {
        **summary,
        "calibration_error": detection_calibration_error(found),
        "score_iou_correlation": score_iou_correlation(found),
        "F1": point.f1,
        "F1_threshold": point.threshold,
        "moLRP": mean_optimal_lrp(found),
    }
