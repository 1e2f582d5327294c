"""Hard or soft non-maximum suppression of candidates, with one setting for all images."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from rl_det.ap.batch import DetectionBatch
from rl_det.candidates.nms import nms
from rl_det.candidates.soft_nms import Settings, soft_nms
from rl_det.settings import at_least, check_settings, positive, within
from rl_det.types import Candidates, Detections


@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """The settings of post-processing. There is no score threshold: a threshold never improves AP."""

    nms_iou: float
    """The IoU above which the lower of two detections of one class is removed."""
    sigma: float = np.inf
    """Soft-NMS multiplies overlapping probabilities by exp(-IoU^2 / sigma); infinity means hard NMS."""
    max_detections: int = 100
    """The maximum number of detections of an image."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            nms_iou=within("[0, 1]", usual="0.5"),
            sigma=positive(usual="0.5", infinite=True),
            max_detections=at_least(1),
        )

    @classmethod
    def soft(cls, nms_iou: float, decay: float) -> "PostProcessing":
        """The settings with sigma = 1 / `decay`; a `decay` of 0 is hard NMS."""
        return cls(nms_iou=nms_iou, sigma=np.inf if decay == 0 else 1 / decay)

    @property
    def is_hard(self) -> bool:
        """Whether the scores do not change."""
        return bool(np.isinf(self.sigma))


def detections_of(candidates: Candidates, how: PostProcessing) -> list[Detections]:
    """The detections of each image, best score first; scores are probabilities."""
    if how.is_hard:
        return nms(candidates, nms_iou=how.nms_iou, max_detections=how.max_detections)
    found, device = ranked(candidates, how), candidates.boxes.device
    return [
        Detections(
            boxes=torch.from_numpy(boxes[mask]).to(device),
            labels=torch.from_numpy(labels[mask]).to(device),
            scores=torch.from_numpy(scores[mask].astype(np.float32)).to(device),
        )
        for boxes, labels, scores, mask in zip(found.boxes, found.labels, found.scores, found.mask, strict=True)
    ]


def ranked(candidates: Candidates, how: PostProcessing) -> DetectionBatch:
    """The detections as a padded batch on the host, by (soft) NMS in the engine, each image's best first."""
    probabilities = torch.where(candidates.mask, candidates.logits, 0.0).double().sigmoid().numpy(force=True)
    boxes, labels, mask = (part.numpy(force=True) for part in (candidates.boxes, candidates.labels, candidates.mask))
    settings = Settings.fixed(len(mask), 0.0, how.nms_iou, how.sigma, how.max_detections)
    found = soft_nms(boxes, labels, probabilities, mask, settings)
    order = np.argsort(np.where(found.mask, -found.scores, np.inf), 1, kind="stable")[:, : how.max_detections]
    rows = np.arange(len(found))[:, None]
    return replace(found, **{name: values[rows, order] for name, values in vars(found).items()})
