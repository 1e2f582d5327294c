"""Hard non-maximum suppression of candidates, class by class, as in torchvision."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import batched_nms

from rl_det.types import Candidates, Detections

SMALLEST_SIDE = 1e-2  # pixels; a box thinner than this was clipped away at the image's edge


def has_area(boxes: Float[Tensor, "*any 4"]) -> Bool[Tensor, "*any"]:
    """Whether a box is thick enough to be a detection, as in torchvision's two-stage detectors."""
    return (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(-1)


@torch.no_grad()
def nms(
    candidates: Candidates,
    *,
    nms_iou: float,
    max_detections: int,
    recalibrated: Float[Tensor, "B N"] | None = None,
) -> list[Detections]:
    """The detections after non-maximum suppression for each class: the best by logit, with scores sigmoid(logit).

    The order is that of the logits, even where their sigmoids are equal in float32. `recalibrated` logits, if there are any,
    score and order what is kept. There is no score threshold. Boxes without area are dropped.
    """
    detections: list[Detections] = []
    for boxes, labels, logits, final, mask in zip(
        candidates.boxes,
        candidates.labels,
        candidates.logits,
        candidates.logits if recalibrated is None else recalibrated,
        candidates.mask & has_area(candidates.boxes),
        strict=True,
    ):
        boxes, labels, logits, final = boxes[mask], labels[mask], logits[mask], final[mask]
        kept = batched_nms(boxes, logits, labels, nms_iou)[:max_detections]
        if recalibrated is not None:
            kept = kept[final[kept].sort(descending=True).indices]
        detections.append(Detections(boxes=boxes[kept], labels=labels[kept], scores=final[kept].sigmoid()))
    return detections
