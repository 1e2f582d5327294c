"""Check a user's own `torch.utils.data.Dataset` of torchvision's pairs (image, {"boxes", "labels"})."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image
from torch import Tensor

from rl_det.data import Split
from rl_det.data.check import brief
from rl_det.data.images import rgb
from rl_det.errors import UserError
from rl_det.types import Sample, Target


@runtime_checkable
class PairDataset(Protocol):
    """The data sets of torchvision's references: an image, and a dictionary with boxes (xyxy, pixels) and labels (from 1)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, dict[str, Any]]: ...


class TorchDataset:
    """A data set of pairs as a data set of `Sample`s.

    The image is a tensor (uint8, or floats in [0, 1]) or a PIL image. The target has "boxes" [G, 4] and "labels" [G],
    and may have "image_id", "area" and "iscrowd". Their defaults are the index, the clipped boxes' areas, and no crowd.
    Boxes are clipped to their image. Raises ValueError, which names the split and the index, for any other sample, and for
    a box of which nothing lies in its image.
    """

    def __init__(self, pairs: PairDataset, classes: tuple[str, ...], name: str) -> None:
        self.pairs, self.classes, self.name = pairs, classes, name

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}; got {index}")
        where = f"{self.name}[{index}]"
        given, target = pair_of(self.pairs, index, where)
        image = image_tensor(given, where)
        return Sample(image=image, target=self._target(target, index, where, (image.shape[2], image.shape[1])))

    def _target(self, given: dict[str, Any], index: int, where: str, size: tuple[int, int]) -> Target:
        boxes, labels = boxes_and_labels(given, where)
        if not (torch.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
            raise UserError(f"{where}: boxes must be finite xyxy corners with a positive size; got {boxes.tolist()}")
        told, boxes = boxes, boxes.clamp(min=torch.zeros(()), max=torch.tensor([*size, *size]))
        sides = boxes[:, 2:] - boxes[:, :2]
        if not (sides > 0).all():
            outside = told[(sides <= 0).any(1)].tolist()
            raise UserError(f"{where}: boxes must lie in the image, of {size} pixels (width, height); got {outside}")
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= len(self.classes):
            raise UserError(
                f"{where}: labels must lie in 1..{len(self.classes)}, 0 being torchvision's background; got {labels.tolist()}"
            )
        area = numbers(given.get("area", sides.prod(-1)), where, "area").reshape(-1).to(torch.float32)
        iscrowd = numbers(given.get("iscrowd", torch.zeros(len(boxes))), where, "iscrowd").reshape(-1).to(torch.bool)
        if not len(boxes) == len(area) == len(iscrowd):
            raise UserError(f"{where}: area and iscrowd must have one entry for each of the {len(boxes)} boxes")
        if not (torch.isfinite(area).all() and (area >= 0).all()):
            raise UserError(f"{where}: area must be finite, not negative; got {area.tolist()}")
        image_id = numbers(given.get("image_id", index), where, "image_id").reshape(-1)
        if len(image_id) != 1:
            raise UserError(f"{where}: image_id must be one number; got {image_id.tolist()}")
        return Target(boxes=boxes, labels=labels, area=area, iscrowd=iscrowd, image_id=int(image_id))


def pair_of(pairs: PairDataset, index: int, where: str) -> tuple[Any, dict[str, Any]]:
    """One entry; ValueError unless it is an image with a dictionary of boxes and labels."""
    entry = pairs[index]
    if not (isinstance(entry, Sequence) and len(entry) == 2 and isinstance(entry[1], dict)):
        wanted = "(image, {'boxes', 'labels'}), as torchvision's detectors take it"
        raise UserError(f"{where}: must be {wanted}; got a {type(entry).__name__}")
    if missing := {"boxes", "labels"} - entry[1].keys():
        raise UserError(f"{where}: the target must have 'boxes' and 'labels'; it lacks {sorted(missing)}")
    return entry[0], entry[1]


def boxes_and_labels(target: dict[str, Any], where: str) -> tuple[Float[Tensor, "G 4"], Tensor]:
    """Boxes in float32 and labels in int64; ValueError where their shapes do not fit."""
    form = getattr(target["boxes"], "format", None)  # of torchvision's own BoundingBoxes
    if form is not None and form.name != "XYXY":
        raise UserError(f"{where}: boxes must be xyxy corners; these say that they are {form.name}")
    boxes = numbers(target["boxes"], where, "boxes").to(torch.float32)
    boxes = boxes if boxes.numel() else torch.zeros(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{where}: boxes must be xyxy corners [G, 4]; got the shape {tuple(boxes.shape)}")
    told = numbers(target["labels"], where, "labels").reshape(-1)
    labels = told.to(torch.int64)
    if (labels != told).any():
        raise UserError(f"{where}: labels must be whole numbers; got {told.tolist()}")
    if len(boxes) != len(labels):
        raise UserError(f"{where}: must have a label for each box; got {len(boxes)} boxes and {len(labels)} labels")
    return boxes, labels


def numbers(value: Any, where: str, name: str) -> Tensor:
    """A plain tensor; ValueError for what torch cannot make one of."""
    try:
        value = np.require(value, requirements="W") if isinstance(value, np.ndarray) else value  # torch warns of others
        return torch.as_tensor(value).as_subclass(Tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: {name} must be numbers; got {brief(value)}") from error


def image_tensor(image: Any, where: str) -> Float[Tensor, "3 H W"]:
    """RGB in [0, 1] from a tensor, an array or a PIL image; ValueError for anything else."""
    if isinstance(image, Image.Image):
        return rgb(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.require(image, requirements="W"))
        image = image[None] if image.ndim == 2 else image.movedim(-1, 0)  # grey, or channels last
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
        shape = tuple(image.shape) if hasattr(image, "shape") else type(image).__name__
        raise UserError(f"{where}: the image must be a tensor [3, H, W] or a PIL image; got {shape}")
    whole = image.dtype == torch.uint8
    pixels = image.as_subclass(Tensor).to(torch.float32) / (255 if whole else 1)
    if not whole and not 0 <= float(pixels.min()) <= float(pixels.max()) <= 1:
        raise UserError(f"{where}: a floating-point image must lie in [0, 1]; got up to {float(pixels.abs().max()):g}")
    return pixels.expand(3, -1, -1)


def upright(image: Any, where: str) -> Float[Tensor, "3 H W"]:
    """The same, but a PIL image must be upright, as the readers of files make it; ValueError if its EXIF would turn it."""
    if isinstance(image, Image.Image) and "exif" in image.info:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation != 1:
            how = "give PIL.ImageOps.exif_transpose(image), in whose pixels the boxes then are"
            raise UserError(f"{where}: must be upright; its EXIF orientation is {orientation}: {how}")
    return image_tensor(image, where)


def classes_of(splits: Mapping[Split, PairDataset]) -> tuple[str, ...]:
    """The names that the first split gives as `classes`, else as many numbers as the highest label of all of them says."""
    named = getattr(next(iter(splits.values())), "classes", None)
    if named is not None:
        return tuple(str(name) for name in named)
    highest = 0
    for split, dataset in splits.items():
        for index in range(len(dataset)):
            where = f"{split}[{index}]"
            _, labels = boxes_and_labels(pair_of(dataset, index, where)[1], where)
            highest = max(highest, *labels.tolist(), 0)
    if highest < 1:
        raise UserError("the data sets must hold a labelled box at least; torchvision counts labels from 1")
    return tuple(str(label) for label in range(1, highest + 1))
