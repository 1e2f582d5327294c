"""Hard non-maximum suppression of candidates, class by class, as in torchvision."""

import torch
from torchvision.ops import batched_nms, remove_small_boxes

from rl_det.types import Candidates, Detections

SMALLEST_SIDE = 1e-2  # pixels; a box thinner than this was clipped away at the image's edge


@torch.no_grad()
def nms(candidates: Candidates, *, nms_iou: float, max_detections: int) -> list[Detections]:
    """The detections after non-maximum suppression for each class: the best by logit, with scores sigmoid(logit).

    The order is that of the logits, even where their sigmoids are equal in float32. Boxes without area are dropped, as
    in torchvision's two-stage detectors. There is no score threshold.
    """
    detections: list[Detections] = []
    for boxes, labels, logits, mask in zip(
        candidates.boxes, candidates.labels, candidates.logits, candidates.mask, strict=True
    ):
        boxes, labels, logits = boxes[mask], labels[mask], logits[mask]
        large = remove_small_boxes(boxes, SMALLEST_SIDE)
        boxes, labels, logits = boxes[large], labels[large], logits[large]
        kept = batched_nms(boxes, logits, labels, nms_iou)[:max_detections]
        detections.append(Detections(boxes=boxes[kept], labels=labels[kept], scores=logits[kept].sigmoid()))
    return detections
