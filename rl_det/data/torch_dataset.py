"""Check a user's own `torch.utils.data.Dataset` of torchvision's pairs (image, {"boxes", "labels"})."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rl_det.data.images import rgb
from rl_det.types import Sample, Target


@runtime_checkable
class PairDataset(Protocol):
    """The data sets of torchvision's references: an image, and a dictionary with boxes (xyxy, pixels) and labels (from 1)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, dict[str, Any]]: ...


class TorchDataset:
    """A data set of pairs as a data set of `Sample`s.

    The image is a tensor (uint8, or floats in [0, 1]) or a PIL image. The target has "boxes" [G, 4] and "labels" [G],
    and may have "image_id", "area" and "iscrowd". Their defaults are the index, the boxes' areas, and no crowd. Raises
    ValueError, which names the split and the index, for any other sample.
    """

    def __init__(self, pairs: PairDataset, classes: tuple[str, ...], name: str) -> None:
        self.pairs, self.classes, self.name = pairs, classes, name

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}; got {index}")
        where = f"{self.name}[{index}]"
        image, target = pair_of(self.pairs, index, where)
        return Sample(image=image_tensor(image, where), target=self._target(target, index, where))

    def _target(self, given: dict[str, Any], index: int, where: str) -> Target:
        boxes, labels = boxes_and_labels(given, where)
        sides = boxes[:, 2:] - boxes[:, :2]
        if not (torch.isfinite(boxes).all() and (sides > 0).all()):
            raise ValueError(f"{where}: boxes must be finite xyxy corners with a positive size; got {boxes.tolist()}")
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= len(self.classes):
            raise ValueError(
                f"{where}: labels must lie in 1..{len(self.classes)}, 0 being torchvision's background; got {labels.tolist()}"
            )
        area = torch.as_tensor(given.get("area", sides.prod(-1)), dtype=torch.float32).reshape(-1)
        iscrowd = torch.as_tensor(given.get("iscrowd", torch.zeros(len(boxes)))).reshape(-1).to(torch.bool)
        if not len(boxes) == len(area) == len(iscrowd):
            raise ValueError(f"{where}: area and iscrowd must have one entry for each of the {len(boxes)} boxes")
        image_id = int(torch.as_tensor(given.get("image_id", index)).reshape(-1)[0])
        return Target(boxes=boxes, labels=labels, area=area, iscrowd=iscrowd, image_id=image_id)


def pair_of(pairs: PairDataset, index: int, where: str) -> tuple[Any, dict[str, Any]]:
    """One entry; ValueError unless it is an image with a dictionary of boxes and labels."""
    entry = pairs[index]
    if not (isinstance(entry, Sequence) and len(entry) == 2 and isinstance(entry[1], dict)):
        wanted = "(image, {'boxes', 'labels'}), as torchvision's detectors take it"
        raise ValueError(f"{where}: must be {wanted}; got a {type(entry).__name__}")
    if missing := {"boxes", "labels"} - entry[1].keys():
        raise ValueError(f"{where}: the target must have 'boxes' and 'labels'; it lacks {sorted(missing)}")
    return entry[0], entry[1]


def boxes_and_labels(target: dict[str, Any], where: str) -> tuple[Float[Tensor, "G 4"], Tensor]:
    """Boxes in float32 and labels in int64; ValueError if their shapes do not fit."""
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float32)
    boxes = boxes.as_subclass(Tensor).reshape(-1, 4) if boxes.numel() else torch.zeros(0, 4)
    labels = torch.as_tensor(target["labels"]).reshape(-1).to(torch.int64)
    if len(boxes) != len(labels):
        raise ValueError(f"{where}: must have a label for each box; got {len(boxes)} boxes and {len(labels)} labels")
    return boxes, labels


def image_tensor(image: Any, where: str) -> Float[Tensor, "3 H W"]:
    """RGB in [0, 1] from a tensor, an array or a PIL image; ValueError for anything else."""
    if isinstance(image, Image.Image):
        return rgb(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image).movedim(-1, 0)
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
        shape = tuple(image.shape) if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"{where}: the image must be a tensor [3, H, W] or a PIL image; got {shape}")
    whole = image.dtype == torch.uint8
    pixels = image.as_subclass(Tensor).to(torch.float32) / (255 if whole else 1)
    if not whole and not 0 <= float(pixels.min()) <= float(pixels.max()) <= 1:
        raise ValueError(f"{where}: a floating-point image must lie in [0, 1]; got up to {float(pixels.abs().max()):g}")
    return pixels.expand(3, -1, -1)


def classes_of(datasets: Sequence[PairDataset]) -> tuple[str, ...]:
    """The class names: the first data set's `classes`, or else numbers up to the highest label of all data sets."""
    named = getattr(datasets[0], "classes", None)
    if named is not None:
        return tuple(str(name) for name in named)
    highest = 0
    for dataset in datasets:
        for index in range(len(dataset)):
            _, target = pair_of(dataset, index, f"[{index}]")
            _, labels = boxes_and_labels(target, f"[{index}]")
            highest = max(highest, *labels.tolist(), 0)
    if highest < 1:
        raise ValueError("the data sets must hold a labelled box at least; torchvision counts labels from 1")
    return tuple(str(label) for label in range(1, highest + 1))
