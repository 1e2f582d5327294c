"""Check a `datasets.Dataset` of Hugging Face with the columns `image` and `objects`, as the library's own guides have them.

https://huggingface.co/docs/datasets/object_detection: `objects` is a dictionary of lists, with "bbox" as COCO's
[x, y, width, height] in pixels and "category" as a ClassLabel. Nothing of the library is imported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.data import Split
from rl_det.data.check import HAIR, brief
from rl_det.data.torch_dataset import image_tensor, numbers
from rl_det.errors import UserError
from rl_det.types import Sample, Target

SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
"""How the splits of a DatasetDict are called."""
SUSPECTED_IMAGES = 32
"""How many images of each split are decoded at opening, to see whether the boxes have another form."""


class HuggingFaceImages:
    """One split as a data set of `Sample`s; opening reads all `objects`, but few of the images.

    `objects` may have "area", "iscrowd" (or "is_crowd") and other fields, and the split a column "image_id". Their
    defaults are the clipped boxes' areas, no crowd, and the index. Boxes are clipped to their image, and left out if they
    have no size inside. Label k is class k of `classes`, which `names`, those of the ClassLabel, have in any order; without
    names, it is category k - 1. Raises ValueError, which names the split and the index,
    for any other form.
    """

    def __init__(self, rows: Any, split: str, classes: tuple[str, ...], names: tuple[str, ...] | None = None) -> None:
        self.rows, self.split, self.classes = rows, split, classes
        numbered = names or classes
        self._labels = torch.tensor([1 + classes.index(name) for name in numbered])
        self.category_ids = tuple(map(numbered.index, classes))
        for index, objects in enumerate(rows["objects"]):
            self._boxes(objects, f"{split}[{index}]")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}; got {index}")
        where, row = f"{self.split}[{index}]", self._row(index)
        image = image_tensor(row["image"], where)
        boxes, labels, area, iscrowd = self._boxes(row["objects"], where)
        height, width = image.shape[1:]
        boxes = boxes.clamp(min=torch.zeros(()), max=torch.tensor([width, height, width, height]))
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = (sides >= HAIR).all(1)
        area = torch.where(area.isnan(), sides.prod(1), area)
        image_id = numbers(row.get("image_id", index), where, "image_id").reshape(-1)
        if len(image_id) != 1 or image_id.is_floating_point():
            raise UserError(f"{where}: image_id must be one whole number; got {brief(row['image_id'])}")
        target = Target(
            boxes=boxes[kept], labels=labels[kept], area=area[kept], iscrowd=iscrowd[kept], image_id=int(image_id)
        )
        return Sample(image=image, target=target)

    def _row(self, index: int) -> Any:
        try:
            return self.rows[index]
        except Exception as fault:  # the library's own decoders raise nearly anything at a damaged image
            raise UserError(f"{self.split}[{index}]: the image cannot be decoded ({fault})") from fault

    def suspicion(self) -> str | None:
        """A sentence if the boxes of the first images look like x1, y1, x2, y2."""
        leaving = count = 0
        fit = True
        for index in range(min(SUSPECTED_IMAGES, len(self))):
            where, row = f"{self.split}[{index}]", self._row(index)
            boxes = self._boxes(row["objects"], where)[0]
            height, width = image_tensor(row["image"], where).shape[1:]
            sides = torch.tensor([width, height])
            as_corners = boxes[:, 2:] - boxes[:, :2]
            fit = fit and bool(((as_corners > boxes[:, :2]) & (as_corners <= sides + 1)).all())
            leaving += int((boxes[:, 2:] > sides + 1).any(1).sum())
            count += len(boxes)
        if fit and 2 * leaving > count:
            return (
                f"{self.split}: {leaving} of the first {count} boxes leave their image as [x, y, width, height]; they are "
                "x1, y1, x2, y2 by all appearance"
            )
        return None

    def _boxes(self, objects: Any, where: str) -> tuple[Float[Tensor, "G 4"], Tensor, Tensor, Tensor]:
        """Corners that are not clipped, labels, areas (NaN where none is given) and crowds of one image."""
        objects = columns_of(objects, where)
        bbox = numbers(objects["bbox"], where, "bbox").to(torch.float32)
        bbox = bbox if bbox.numel() else torch.zeros(0, 4)
        if bbox.ndim != 2 or bbox.shape[1] != 4:
            raise UserError(f"{where}: bbox must be [x, y, width, height] of each; got the shape {tuple(bbox.shape)}")
        if not torch.isfinite(bbox).all() or (bbox[:, 2:] < 0).any():
            raise UserError(
                f"{where}: bbox must be finite [x, y, width, height], no size negative; got {brief(bbox.tolist())}"
            )
        category = numbers(objects["category"], where, "category").reshape(-1)
        labels = category.to(torch.int64)
        if (labels != category).any() or (
            len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes)
        ):
            wanted = f"numbers of the classes, 0..{len(self.classes) - 1}"
            raise UserError(f"{where}: category must be {wanted}; got {brief(category.tolist())}")
        area = numbers(objects.get("area", [float("nan")] * len(bbox)), where, "area").reshape(-1).to(torch.float32)
        told = objects.get("iscrowd", objects.get("is_crowd", [0] * len(bbox)))
        iscrowd = numbers(told, where, "iscrowd").reshape(-1).to(torch.bool)
        if not len(bbox) == len(labels) == len(area) == len(iscrowd):
            raise UserError(
                f"{where}: each of the {len(bbox)} boxes must have a category, and an area and iscrowd if one has"
            )
        if (area < 0).any() or area.isinf().any():
            raise UserError(f"{where}: area must be finite, not negative; got {brief(area.tolist())}")
        return torch.cat([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], 1), self._labels[labels], area, iscrowd


def columns_of(objects: Any, where: str) -> Mapping[str, Any]:
    """The objects of one image as a dictionary of lists, from one or from a list of dictionaries."""
    if isinstance(objects, Sequence) and all(isinstance(each, Mapping) for each in objects):
        keys = objects[0].keys() if objects else ("bbox", "category")
        if any(each.keys() != keys for each in objects):
            raise UserError(f"{where}: all objects must have the same fields")
        objects = {key: [each[key] for each in objects] for key in keys}
    if not isinstance(objects, Mapping):
        raise UserError(f"{where}: objects must be a dictionary of lists; got {brief(objects)}")
    if missing := {"bbox", "category"} - objects.keys():
        raise UserError(f"{where}: objects must have 'bbox' and 'category'; it lacks {sorted(missing)}")
    return objects


def is_hugging_face(rows: Any) -> bool:
    """Whether an object has the face of `datasets.Dataset`."""
    return all(hasattr(rows, name) for name in ("column_names", "features", "__len__", "__getitem__"))


def splits_of(given: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Train, val and test of a DatasetDict; ValueError if one is missing."""
    found = []
    for split, names in SPLIT_NAMES.items():
        name = next((name for name in names if name in given), None)
        if name is None:
            raise UserError(
                f"data must have the splits train, validation and test; there is no {split} among {sorted(map(str, given))}; "
                "divide one by its train_test_split(test_size=0.2, seed=0)"
            )
        found.append(given[name])
    train, val, test = found
    return train, val, test


def hugging_face_images(
    given: Mapping[Split, Any], classes: Sequence[str] | None
) -> tuple[dict[Split, HuggingFaceImages], list[str]]:
    """The splits of `datasets.Dataset`s, and what looks wrong with them.

    `classes` are the names of each split's ClassLabel in the wanted order, by default that of the first split; without a
    ClassLabel, they name the numbers.
    """
    for split, rows in given.items():
        if not is_hugging_face(rows):
            raise UserError(f"{split}: must be a datasets.Dataset as the others; got {type(rows).__name__}")
        if missing := {"image", "objects"} - set(rows.column_names):
            raise UserError(
                f"{split}: must have the columns 'image' and 'objects'; it lacks {sorted(missing)} among "
                f"{list(rows.column_names)}; rename_column gives a column another name"
            )
        if not len(rows):
            raise UserError(f"{split}: must hold one image at least; it is empty")
    names = {split: class_names(rows.features["objects"]) for split, rows in given.items()}
    if classes is None and None in names.values():
        split = next(split for split, own in names.items() if own is None)
        raise UserError(
            f"{split}: the category of objects must be a ClassLabel, which names the classes; else give classes="
        )
    named = {split: own for split, own in names.items() if own is not None}
    if len(set(named.values())) > 1:
        raise UserError(f"the splits must agree in their classes; got {', '.join(map(str, named.values()))}")
    order = tuple(classes) if classes is not None else next(iter(named.values()))
    for own in named.values():
        if sorted(own) != sorted(order):
            wanted = f"must be the names of the ClassLabel in any order, {brief(list(own))}"
            raise UserError(f"classes {wanted}; got {brief(list(order))}")
    splits = {split: HuggingFaceImages(rows, split, order, names[split]) for split, rows in given.items()}
    return splits, [sentence for images in splits.values() if (sentence := images.suspicion())]


def class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel in the feature "objects", however lists are nested in it, or None."""
    feature = _within_lists(feature)
    if not isinstance(feature, Mapping):
        return None
    names = getattr(_within_lists(feature.get("category")), "names", None)
    return None if names is None else tuple(map(str, names))


def _within_lists(feature: Any) -> Any:
    """The feature of a list's items: the library writes lists as [feature], and as objects with a `feature`."""
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return feature
