"""Select the N best (proposal, class) pairs of a head's output; encode and decode the pair index."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from rl_det.types import Candidates, HeadOutput


def proposal_of(index: Int[Tensor, "*shape"], num_classes: int) -> Int[Tensor, "*shape"]:
    """The proposal p of the pair index p * C + c - 1."""
    return index.div(num_classes, rounding_mode="floor")


def column_of(index: Int[Tensor, "*shape"], num_classes: int) -> Int[Tensor, "*shape"]:
    """The class column c - 1 of the pair index p * C + c - 1; the label is one more."""
    return index % num_classes


def select_candidates(output: HeadOutput, mask: Bool[Tensor, "B P"], num_candidates: int) -> Candidates:
    """The best pairs by logit, over all classes at once; without gradient.

    If an image has too few pairs, it is padded with box 0, label 1, logit -inf and index 0.
    """
    num_classes = output.logits.shape[-1]
    pairs = output.logits.detach().masked_fill(~mask[..., None], -torch.inf).flatten(1)  # [B, P * C]
    logits, index = pairs.topk(min(num_candidates, pairs.shape[1]), dim=1)
    missing = num_candidates - logits.shape[1]
    logits = pad(logits, (0, missing), value=-torch.inf)
    real = ~logits.isneginf()  # not `> -inf`: a NaN must stay in sight
    index = pad(index, (0, missing)).where(real, 0)
    boxes = gather_boxes(output.boxes.detach(), index) * real[..., None]
    return Candidates(boxes=boxes, labels=column_of(index, num_classes) + 1, logits=logits, mask=real, index=index)


def gather_boxes(boxes: Float[Tensor, "B P C 4"], index: Int[Tensor, "B N"]) -> Float[Tensor, "B N 4"]:
    """The boxes of earlier selected candidates in a later output of the head, with gradient; padding gets the first pair's."""
    image, num_classes = torch.arange(len(index), device=index.device)[:, None], boxes.shape[2]
    return boxes[image, proposal_of(index, num_classes), column_of(index, num_classes)]


def gather_logits(logits: Float[Tensor, "B P C"], index: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """The logits of earlier selected candidates in a later output of the head, with gradient; padding gets the first pair's."""
    return logits.flatten(1).gather(1, index)
