"""The exact AP engine: AP per image, class and data set, what each detection is worth, and exact changes of mAP.

Everything exported here takes padded numpy batches and needs no torch. `rl_det.ap.padding` makes the batches of tensors and
targets; `rl_det.ap.on_device` matches torch tensors on their own device.
"""

from rl_det.ap.average_precision import image_ap, image_class_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.data_set import class_ap, class_precision, class_recall, coco_figures, mean_ap
from rl_det.ap.leave_one_out import leave_one_out
from rl_det.ap.matching import Matches, match, match_ranges
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.ranking_pool import RankingPool
from rl_det.ap.relations import Relations, relations

__all__ = [
    "COCO",
    "CandidatePool",
    "CocoOptions",
    "DetectionBatch",
    "Matches",
    "RankingPool",
    "Relations",
    "TruthBatch",
    "class_ap",
    "class_precision",
    "class_recall",
    "coco_figures",
    "image_ap",
    "image_class_ap",
    "leave_one_out",
    "match",
    "match_ranges",
    "mean_ap",
    "relations",
]
