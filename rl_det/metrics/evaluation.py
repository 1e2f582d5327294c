"""All figures of a report, and whether higher or lower is better for each."""

from collections.abc import Sequence

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import FIGURES as COCO_FIGURES
from rl_det.ap.data_set import coco_figures
from rl_det.ap.padding import by_image_id, pad_detections, pad_targets
from rl_det.errors import UserError
from rl_det.metrics.calibration import detection_calibration_error, score_iou_correlation
from rl_det.metrics.coco import check_lengths, coco_summary
from rl_det.metrics.operating_point import best_f1, mean_optimal_lrp
from rl_det.metrics.outcomes import outcomes
from rl_det.types import Detections, Target

LOWER_IS_BETTER = ("calibration_error", "moLRP")
MONITORS = (*COCO_FIGURES, "F1", "score_iou_correlation", *LOWER_IS_BETTER)
"""The figures that may select a training's weights and stop it."""


def evaluate(detections: Sequence[Detections], targets: Sequence[Target], *, num_classes: int) -> dict[str, float]:
    """COCO's twelve figures by pycocotools; at IoU 0.5, the best F1 and its threshold, moLRP, calibration, correlation.

    Equal scores of two images rank by rising `image_id`, as pycocotools ranks them; of equal ids, as they stand.
    """
    summary = coco_summary(detections, targets, num_classes=num_classes)
    return {**summary, **_at_half(detections, targets, num_classes)}


def quick_evaluate(
    detections: Sequence[Detections], targets: Sequence[Target], *, num_classes: int
) -> dict[str, float]:
    """The same figures by rl_det's own engine, fast enough between training steps."""
    figures = coco_figures(*_ranked(detections, targets), num_classes=num_classes)
    return {**figures, **_at_half(detections, targets, num_classes)}


def check_monitor(name: str) -> None:
    """Raise ValueError, which lists the known names, if no figure that may select weights has this name."""
    if name not in MONITORS:
        raise UserError(f"a training is led by one of {', '.join(MONITORS)}; got {name!r}; AP is usual")


def _ranked(detections: Sequence[Detections], targets: Sequence[Target]) -> tuple[DetectionBatch, TruthBatch]:
    """Both as padded batches, in the order in which equal scores rank."""
    check_lengths(detections, targets)
    order = by_image_id(targets)
    return pad_detections([detections[k] for k in order]), pad_targets([targets[k] for k in order])


def _at_half(detections: Sequence[Detections], targets: Sequence[Target], num_classes: int) -> dict[str, float]:
    """The figures at IoU 0.5."""
    found = outcomes(*_ranked(detections, targets), num_classes=num_classes)
    point = best_f1(found)
    return {
        "calibration_error": detection_calibration_error(found),
        "score_iou_correlation": score_iou_correlation(found),
        "F1": point.f1,
        "F1_threshold": point.threshold,
        "moLRP": mean_optimal_lrp(found),
    }
