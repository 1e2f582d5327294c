"""Detections and true boxes -> what they are worth: AP, what each detection adds to it, and exact changes; calibration.

What is named here works on padded numpy batches and needs no torch. `padding` makes the batches of tensors and targets,
`on_device` matches tensors where they are, `coco` has pycocotools' own figures for reports.
"""

from rl_det.metrics.average_precision import image_ap, image_class_ap
from rl_det.metrics.batch import DetectionBatch, TruthBatch
from rl_det.metrics.calibration import detection_calibration_error, score_iou_correlation
from rl_det.metrics.candidate_pool import CandidatePool
from rl_det.metrics.data_set import class_ap, class_precision, class_recall, coco_figures
from rl_det.metrics.leave_one_out import leave_one_out
from rl_det.metrics.matching import Matches, match, match_ranges
from rl_det.metrics.operating_point import (
    OperatingPoint,
    OptimalLrp,
    best_f1,
    best_f1_by_class,
    mean_optimal_lrp,
    operating_point,
    optimal_lrp,
)
from rl_det.metrics.options import COCO, CocoOptions
from rl_det.metrics.outcomes import Outcomes, outcomes
from rl_det.metrics.ranking_pool import RankingPool
from rl_det.metrics.relations import Relations, relations

__all__ = [
    "COCO",
    "CandidatePool",
    "CocoOptions",
    "DetectionBatch",
    "Matches",
    "OperatingPoint",
    "OptimalLrp",
    "Outcomes",
    "RankingPool",
    "Relations",
    "TruthBatch",
    "best_f1",
    "best_f1_by_class",
    "class_ap",
    "class_precision",
    "class_recall",
    "coco_figures",
    "detection_calibration_error",
    "image_ap",
    "image_class_ap",
    "leave_one_out",
    "match",
    "match_ranges",
    "mean_optimal_lrp",
    "operating_point",
    "optimal_lrp",
    "outcomes",
    "relations",
    "score_iou_correlation",
]
