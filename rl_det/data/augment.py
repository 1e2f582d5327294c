"""Augment samples by a seed; boxes, areas and labels follow the image.

All transforms except mirroring are torchvision's (v2).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_area
from torchvision.transforms import v2

from rl_det.data import Dataset, file_of
from rl_det.errors import UserError
from rl_det.settings import check_settings
from rl_det.types import Sample, Target

SMALLEST_SIDE = 2.0
"""In pixels; a box is removed if a cut leaves less of it."""
GREY = 0.5
"""The value of the padding around an image that became smaller."""


@dataclass(frozen=True, kw_only=True)
class Augmentations:
    """The augmentations of an image before the detector learns from it; by default none."""

    scale: tuple[float, float] = (1.0, 1.0)
    """The image is enlarged by a factor between these, then cut or padded with grey to its old size; 0.5 to 2 is strong."""
    crop: bool = False
    """Whether the image is cropped at random (SSD's crop: the centre of at least one object stays inside)."""
    photometric: bool = False
    """Whether brightness, contrast, saturation, hue and the order of the colours change."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_scale("scale", self.scale, usual="0.5 2")

    @property
    def any(self) -> bool:
        """Whether any augmentation is switched on."""
        return self.scale != (1.0, 1.0) or self.crop or self.photometric


def check_scale(name: str, scale: tuple[float, float], *, usual: str) -> None:
    """Raise UserError unless these are two factors by which images can be enlarged."""
    low, high = scale
    if not 0.1 <= low <= high <= 10:
        raise UserError(f"{name} must be two factors that rise within [0.1, 10]; got {scale}; {usual} is usual")


class Augmented:
    """A data set with augmentations: item (index, seed) is a pure function of the index and the seed.

    So worker processes may augment, and a resumed training sees the same images as one that was not stopped.
    """

    def __init__(self, dataset: Dataset, augmentations: Augmentations) -> None:
        self.dataset, self.augmentations = dataset, augmentations

    def __getitem__(self, visit: tuple[int, int]) -> Sample:
        index, seed = visit
        return augmented(self.dataset[index], self.augmentations, seed)


class Views:
    """A data set of several views of each image: the image as it is, then augmented views, every second one mirrored.

    Image i of view v is item v * (number of images) + i. It is always the same.
    """

    def __init__(self, dataset: Dataset, num_views: int, augmentations: Augmentations) -> None:
        self.dataset, self.num_views, self.augmentations = dataset, num_views, augmentations

    @property
    def classes(self) -> tuple[str, ...]:
        """The data set's classes."""
        return self.dataset.classes

    def __len__(self) -> int:
        return self.num_views * len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}; got {index}")
        view, image = divmod(index, len(self.dataset))
        sample = self.dataset[image]
        if view == 0:
            return sample
        seen = augmented(sample, self.augmentations, index)
        return flipped(seen) if view % 2 else seen

    def file_of(self, index: int) -> Path | None:
        """The image's file, if it is known."""
        return file_of(self.dataset, index % len(self.dataset))


def flipped(sample: Sample) -> Sample:
    """The sample, mirrored left to right."""
    width = sample.image.shape[-1]
    left, top, right, bottom = sample.target.boxes.unbind(-1)
    boxes = torch.stack([width - right, top, width - left, bottom], -1)
    return replace(sample, image=sample.image.flip(-1), target=replace(sample.target, boxes=boxes))


def augmented(sample: Sample, augmentations: Augmentations, seed: int) -> Sample:
    """The sample after the transforms, drawn only from the seed; torch's global generator does not change.

    Boxes are clipped to the image, and removed if next to nothing of them is inside. An annotation's area changes by
    the same factor as its box's area.
    """
    size = sample.image.shape[-2:]
    boxes = tv_tensors.BoundingBoxes(sample.target.boxes, format="XYXY", canvas_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image, moved = _transform(augmentations, *size)(tv_tensors.Image(sample.image), boxes)
    return Sample(image=image.as_subclass(Tensor).clamp(0, 1), target=_kept(sample.target, moved))


def _transform(augmentations: Augmentations, height: int, width: int) -> v2.Transform:
    steps: list[v2.Transform] = []
    if augmentations.photometric:
        steps.append(v2.RandomPhotometricDistort())
    if augmentations.scale != (1.0, 1.0):
        # ScaleJitter divides target_size[1] by the height, and [0] by the width.
        steps.append(v2.ScaleJitter(target_size=(width, height), scale_range=augmentations.scale))
        steps.append(v2.RandomCrop((height, width), pad_if_needed=True, fill=GREY))
    if augmentations.crop:
        steps.append(v2.RandomIoUCrop())
    return v2.Compose([*steps, v2.ClampBoundingBoxes()])


def _kept(target: Target, moved: tv_tensors.BoundingBoxes) -> Target:
    """The target with the moved boxes, without the boxes that have left the image."""
    area = target.area * (box_area(moved.as_subclass(Tensor)) / box_area(target.boxes))
    beside = (target.labels, area, target.iscrowd)
    sanitize = v2.SanitizeBoundingBoxes(min_size=SMALLEST_SIDE, labels_getter=lambda inputs: inputs[1])
    boxes, (labels, area, iscrowd) = sanitize(moved, beside)
    return replace(target, boxes=boxes.as_subclass(Tensor), labels=labels, area=area, iscrowd=iscrowd)
