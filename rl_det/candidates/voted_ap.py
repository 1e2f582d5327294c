"""Candidates of some images and their true boxes -> the exact mAP under any settings of post-processing, fast.

What does not depend on the settings (who votes on whom) is computed once, so thousands of settings can be tried.
"""

from collections.abc import Sequence

import numpy as np
import torch

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.data_set import mean_ap
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_targets
from rl_det.candidates.nms import has_area
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.candidates.soft_nms import Settings, soft_nms
from rl_det.candidates.votes import electorate, vote
from rl_det.types import Candidates, Target


class VotedAp:
    """The images, ready to be judged under one setting after another."""

    def __init__(self, candidates: Candidates, targets: Sequence[Target], *, num_classes: int) -> None:
        self.who, self.labels = electorate(candidates), candidates.labels.numpy(force=True)
        self.truths, self.num_classes = pad_targets(targets), num_classes

    def __call__(self, how: PostProcessingSettings) -> float:
        """COCO's AP after this post-processing, in [0, 1]; NaN without true boxes."""
        return mean_ap(match(self.detections(how), self.truths, num_classes=self.num_classes))

    def detections(self, how: PostProcessingSettings) -> DetectionBatch:
        """The detections, at the places of their candidates; `mask` says who they are."""
        boxes, logits = vote(self.who, how.votes)
        mask = self.who.mask & has_area(torch.from_numpy(boxes)).numpy()
        scores = torch.from_numpy(np.where(mask, logits, 0.0)).double().sigmoid().numpy()
        settings = Settings.fixed(len(mask), 0.0, how.nms_iou, how.sigma, how.max_detections)
        return soft_nms(boxes, self.labels, scores, mask, settings)
