"""What a head says of every (proposal, class) pair -> the N best pairs, padded and masked -> detections if asked."""

from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import batched_nms, remove_small_boxes

from rl_det.types import Candidates, Detections, Encoded, HeadOutput

SHIFT_OF_ONE = 16.0
"""Logits that an action of 1 adds: actions lie in [-1, 1], and a power of two makes no rounding error of it."""
SMALLEST_SIDE = 1e-2  # pixels; a box thinner than this was clipped away at the image's edge


def select_candidates(output: HeadOutput, mask: Bool[Tensor, "B P"], num_candidates: int) -> Candidates:
    """The best pairs by logit, over all classes at once; no gradient.

    Padding, where an image has fewer pairs than asked for, has box 0, label 1, logit -inf and index 0.
    """
    num_classes = output.logits.shape[-1]
    pairs = output.logits.detach().masked_fill(~mask[..., None], -torch.inf).flatten(1)  # [B, P * C]
    logits, index = pairs.topk(min(num_candidates, pairs.shape[1]), dim=1)
    missing = num_candidates - logits.shape[1]
    logits = pad(logits, (0, missing), value=-torch.inf)
    real = ~logits.isneginf()  # not `> -inf`: a NaN must stay in sight
    index = pad(index, (0, missing)).where(real, 0)
    proposal, column = index.div(num_classes, rounding_mode="floor"), index % num_classes
    image = torch.arange(len(index), device=index.device)[:, None]
    boxes = output.boxes.detach()[image, proposal, column] * real[..., None]
    return Candidates(boxes=boxes, labels=column + 1, logits=logits, mask=real, index=index)


def gather_logits(logits: Float[Tensor, "B P C"], index: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """A head's later logits of candidates selected earlier; gradient flows. On padding: those of the first pair."""
    return logits.flatten(1).gather(1, index)


@torch.no_grad()
def postprocess(candidates: Candidates, *, nms_iou: float, max_detections: int) -> list[Detections]:
    """What a user gets: non-maximum suppression per class, then the best by logit; scores are sigmoids of the logits.

    The order is that of the logits, also where their sigmoids are equal in float32. Boxes without area are dropped, as
    torchvision's two-stage detectors do. No score threshold.
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


def clipped(boxes: Float[Tensor, "B N 4"], sizes: Float[Tensor, "B 2"]) -> Float[Tensor, "B N 4"]:
    """Within the images, of these heights and widths."""
    return boxes.clamp(min=0).minimum(sizes[:, None, [1, 0, 1, 0]])


class Observation(TypedDict):
    """Candidates as a policy sees them: boxes relative to the image, in [0, 1]; logits 0 on padding.

    `size` is the image's width, height, width, height in the user's pixels, by which a head's boxes become relative.
    """

    boxes: Float[Tensor, "B N 4"]
    labels: Int[Tensor, "B N"]
    logits: Float[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]
    index: Int[Tensor, "B N"]
    size: Float[Tensor, "B 4"]


def observe(candidates: Candidates, encoded: Encoded) -> Observation:
    """The candidates of these very images, in the form that does not depend on the images' sizes."""
    size = encoded.original[:, [1, 0, 1, 0]]  # height, width -> x, y, x, y
    return Observation(
        boxes=candidates.boxes / size[:, None],
        labels=candidates.labels,
        logits=candidates.logits.where(candidates.mask, 0.0),
        mask=candidates.mask,
        index=candidates.index,
        size=size,
    )
