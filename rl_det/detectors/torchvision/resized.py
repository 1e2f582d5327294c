"""Convert boxes between the user's and the resized image, and assign true boxes to proposals or anchors."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from rl_det.boxes import area, intersection
from rl_det.types import Encoded, Target

BACKGROUND: int = Matcher.BELOW_LOW_THRESHOLD
LEFT_OUT: int = Matcher.BETWEEN_THRESHOLDS


def xyxy(sizes: Float[Tensor, "B 2"]) -> Float[Tensor, "B 4"]:
    """Width, height, width, height from height and width, to bound or scale a box's coordinates."""
    return sizes[:, [1, 0, 1, 0]]


def original_boxes(boxes: Float[Tensor, "B P C 4"], encoded: Encoded) -> Float[Tensor, "B P C 4"]:
    """Boxes in the user's pixels, clipped to the image, from boxes in resized pixels, in torchvision's order of operations."""
    clipped = boxes.clamp(min=0).clamp(max=xyxy(encoded.input_size)[:, None, None])
    return clipped * xyxy(encoded.image_size / encoded.input_size)[:, None, None]


def resized_targets(encoded: Encoded, targets: Sequence[Target]) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """The objects of each image in torchvision's form, and the boxes of its crowds, both in resized pixels."""
    scales = xyxy(encoded.input_size / encoded.image_size)
    boxes, labels, crowds = objects_and_crowds(targets, scales.device)
    objects = [
        {"boxes": own * scale, "labels": classes} for own, classes, scale in zip(boxes, labels, scales, strict=True)
    ]
    return objects, [own * scale for own, scale in zip(crowds, scales, strict=True)]


def objects_and_crowds(
    targets: Sequence[Target], device: torch.device
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The boxes and the labels of each image's objects, and the boxes of its crowds, on the device.

    All images go there together, as each way to a device waits for it.
    """
    is_crowd = torch.cat([target.iscrowd for target in targets])
    boxes = torch.cat([target.boxes.reshape(-1, 4) for target in targets])
    labels = torch.cat([target.labels for target in targets])
    num_crowds = torch.stack([target.iscrowd.sum() for target in targets]).tolist()
    num_objects = [len(target.labels) - crowds for target, crowds in zip(targets, num_crowds, strict=True)]
    return (
        boxes[~is_crowd].to(device).split(num_objects),
        labels[~is_crowd].to(device).split(num_objects),
        boxes[is_crowd].to(device).split(num_crowds),
    )


def assign_objects(
    encoded: Encoded, objects: list[dict[str, Tensor]], crowds: list[Tensor], matcher: Matcher
) -> Int[Tensor, "B P"]:
    """The index of the object to which each proposal or anchor is assigned, or `BACKGROUND`, or `LEFT_OUT`.

    Left out are proposals between the library matcher's two thresholds, padding, and background with more than half its
    area in a crowd.
    """
    rows = []
    for reference, mask, target, crowd in zip(encoded.reference, encoded.mask, objects, crowds, strict=True):
        row = torch.full_like(mask, BACKGROUND, dtype=torch.long)
        if len(target["boxes"]):  # the matcher refuses an image without
            row = matcher(box_iou(target["boxes"], reference))
        if len(crowd):
            row[(row == BACKGROUND) & within(reference, crowd)] = LEFT_OUT
        row[~mask] = LEFT_OUT
        rows.append(row)
    return torch.stack(rows)


def in_all_objects(matched: Int[Tensor, "B P"], objects: list[dict[str, Tensor]]) -> Int[Tensor, " positives"]:
    """The object of each assigned proposal, as an index into the objects of all images one after another."""
    counts = torch.tensor([0] + [len(target["labels"]) for target in objects[:-1]], device=matched.device)
    return (matched + counts.cumsum(0)[:, None])[matched > BACKGROUND]


def within(boxes: Float[Tensor, "P 4"], crowd: Float[Tensor, "G 4"]) -> Bool[Tensor, " P"]:
    """Whether more than half of the box lies in one of the crowd's boxes."""
    return (intersection(boxes[:, None], crowd) > area(boxes)[:, None] / 2).any(1)
