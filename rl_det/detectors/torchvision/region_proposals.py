"""The RPN of a Faster R-CNN as a part that is trained: what it says of every anchor, and its losses.

A proposal's place has no gradient, so a reward says nothing to the RPN. But where the backbone is trained, its maps change
under the RPN, which must learn along, by its own losses.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from rl_det.detectors.torchvision.resized import BACKGROUND, assign_objects, in_all_objects
from rl_det.types import Encoded

READ_OF_RPN = ("head", "anchor_generator", "box_coder", "proposal_matcher", "fg_bg_sampler")
"""The parts of an RPN that its losses read."""
BETA = 1 / 9
"""Where the smooth L1 loss of boxes turns from square to linear, as in torchvision's RPN."""


def said_of_anchors(
    rpn: RegionProposalNetwork, images: Float[Tensor, "B 3 H W"], maps: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`anchors` [B, A, 4], boxes in resized pixels; their `objectness` [B, A] and `moves` [B, A, 4], with gradient."""
    levels = list(maps.values())
    objectness, moves = concat_box_prediction_layers(*rpn.head(levels))
    anchors = torch.stack(rpn.anchor_generator(ImageList(images, [tuple(images.shape[-2:])] * len(images)), levels))
    return {
        "anchors": anchors,
        "objectness": objectness.view(anchors.shape[:2]),
        "moves": moves.view(anchors.shape),
    }


def proposal_losses(
    rpn: RegionProposalNetwork,
    encoded: Encoded,
    objects: list[dict[str, Tensor]],
    crowds: list[Tensor],
    said: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """torchvision's two losses, as their mean over all samples of anchors that it might draw.

    So they draw nothing, and several processes compute the same. Anchors without extent are padding.
    """
    anchors = said["anchors"]
    everywhere = replace(encoded, reference=anchors, mask=(anchors[..., 2:] > anchors[..., :2]).all(-1))
    matched = assign_objects(everywhere, objects, crowds, rpn.proposal_matcher)
    positive, negative = matched > BACKGROUND, matched == BACKGROUND
    size = rpn.fg_bg_sampler.batch_size_per_image
    num_positive, num_negative = positive.sum(1), negative.sum(1)
    drawn_positive = num_positive.clamp(max=int(size * rpn.fg_bg_sampler.positive_fraction))
    drawn_negative = num_negative.minimum(size - drawn_positive)
    of_positive, of_negative = (
        (drawn / number.clamp(min=1))[:, None]  # the chance of each to be drawn
        for drawn, number in ((drawn_positive, num_positive), (drawn_negative, num_negative))
    )
    total = (drawn_positive + drawn_negative).sum().clamp(min=1)
    each = binary_cross_entropy_with_logits(said["objectness"], positive.float(), reduction="none")
    boxes = torch.cat([target["boxes"] for target in objects])[in_all_objects(matched, objects)]
    wanted = rpn.box_coder.encode_single(boxes, anchors[positive])
    apart = smooth_l1_loss(said["moves"][positive], wanted, beta=BETA, reduction="none").sum(-1)
    return {
        "loss_objectness": (each * (of_positive * positive + of_negative * negative)).sum() / total,
        "loss_rpn_box_reg": (apart * of_positive.expand_as(matched)[positive]).sum() / total,
    }
