"""Read a COCO-format folder (`images/`, `train.json`, `val.json`, `test.json`) as checked samples."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from rl_det.data import Split
from rl_det.data.check import HAIR, Corners, DataError, Repairs, brief, is_number
from rl_det.data.images import image_size, read_image
from rl_det.data.splits import Splits, digest
from rl_det.types import Sample, Target

Kind = Literal["image", "annotation", "category"]
LISTS: Mapping[Kind, str] = {"image": "images", "annotation": "annotations", "category": "categories"}


class CocoFolder:
    """One split of a COCO-format folder, by rising image id, as pycocotools ranks; an image is decoded when it is asked for.

    Label k means `category_ids[k - 1]`, named `classes[k - 1]`; labels follow rising category id. Opening checks
    everything except the pixels; DataError names the file and the entry. Boxes that leave their image are clipped, or
    dropped if nothing is left, and counted in one warning. `iscrowd` and `area` are the annotation's; without an area,
    it is the clipped box's. Segmentations are not read.
    """

    def __init__(self, root: Path, split: Split) -> None:
        self.path = root / f"{split}.json"
        document = read_document(self.path)
        categories = entries_by_id(self.path, document, "category")
        images = dict(sorted(entries_by_id(self.path, document, "image").items()))
        self.category_ids = tuple(sorted(categories))
        self.classes = tuple(text(self.path, "category", categories[key], "name") for key in self.category_ids)
        annotations = annotations_by_image(self.path, document, images, self.category_ids)
        self._pictures = [find_picture(self.path, entry) for entry in images.values()]
        repairs = Repairs()
        self._targets = [
            target_of(image_id, annotations[image_id], picture, repairs)
            for image_id, picture in zip(images, self._pictures, strict=True)
        ]
        repairs.warn(self.path)
        if not any(len(target.boxes) for target in self._targets):
            raise DataError(self.path, "annotations", "the split holds no box: nothing to train on or to measure")

    def __len__(self) -> int:
        return len(self._pictures)

    def fingerprint(self) -> str:
        """A hash of the JSON's bytes, and of each image's path, size and modification time."""
        files = [(str(picture.file.relative_to(self.path.parent)), picture.file.stat()) for picture in self._pictures]
        return digest([self.path.read_bytes(), [(file, stat.st_size, stat.st_mtime_ns) for file, stat in files]])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        file, entry, width, height = self._pictures[index]
        image = read_image(file, entry)
        if image.shape != (3, height, width):
            raise DataError(file, entry, f"its header says {width} x {height}, its pixels are {tuple(image.shape)}")
        return Sample(image=image, target=self._targets[index])


def open_coco(root: Path, name: str | None = None) -> Splits:
    """Open the three splits of a COCO-format folder; DataError if a split's categories differ from train.json's."""
    train, *others = (CocoFolder(root, split) for split in ("train", "val", "test"))
    expected = dict(zip(train.category_ids, train.classes, strict=True))
    for split in others:
        found = dict(zip(split.category_ids, split.classes, strict=True))
        if found != expected:
            raise DataError(split.path, "categories", f"must be those of train.json, {expected}; got {found}")
    val, test = others
    return Splits(train=train, val=val, test=test, name=name or root.resolve().name, category_ids=train.category_ids)


class Annotation(NamedTuple):
    """One checked annotation; its box is the file's own and may leave the image."""

    box: Corners
    label: int
    area: float | None
    iscrowd: bool


class Picture(NamedTuple):
    """An image file, the JSON entry that lists it, and the size of the upright picture."""

    file: Path
    entry: str
    width: int
    height: int


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError if there is none."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as fault:
        layout = "a COCO-format folder holds images/, train.json, val.json and test.json"
        raise DataError(path, "the file", f"cannot be read ({fault.strerror}); {layout}") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(path, "the file", f"not JSON ({fault})") from fault
    if not isinstance(document, dict):
        raise DataError(path, "the file", f"not COCO: must hold one JSON object; got {brief(document)}")
    return document


def entries_by_id(path: Path, document: dict[str, Any], kind: Kind) -> dict[int, dict[str, Any]]:
    """One of the document's three lists, in its own order, by id; DataError unless every id is a unique integer."""
    entries = document.get(LISTS[kind])
    if not isinstance(entries, list):
        raise DataError(path, LISTS[kind], f"not COCO: must be a list; got {brief(entries)}")
    if not entries and kind != "annotation":
        raise DataError(path, LISTS[kind], "the list is empty; a split needs at least one of each")
    by_id: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            where = f"{LISTS[kind]}[{position}]"
            raise DataError(path, where, f"must be an object with an integer id; got {brief(entry)}")
        if by_id.setdefault(entry["id"], entry) is not entry:
            raise DataError(path, f"{kind} {entry['id']}", f"two of the {LISTS[kind]} have this id")
    return by_id


def text(path: Path, kind: Kind, entry: dict[str, Any], field: str) -> str:
    """A field that must be a non-empty string, else DataError."""
    value = entry.get(field)
    if not isinstance(value, str) or not value:
        raise DataError(path, f"{kind} {entry['id']}", f"{field} must be a non-empty string; got {brief(value)}")
    return value


def annotations_by_image(
    path: Path, document: dict[str, Any], image_ids: Collection[int], category_ids: tuple[int, ...]
) -> dict[int, list[Annotation]]:
    """The checked annotations of every image, in the file's order."""
    label_of = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    annotations: dict[int, list[Annotation]] = {image_id: [] for image_id in image_ids}
    for key, entry in entries_by_id(path, document, "annotation").items():
        image_id = entry.get("image_id")
        if type(image_id) is not int or image_id not in annotations:
            raise DataError(path, f"annotation {key}", f"image_id {brief(image_id)} is not among the images")
        annotations[image_id].append(read_annotation(path, entry, label_of))
    return annotations


def read_annotation(path: Path, entry: dict[str, Any], label_of: Mapping[int, int]) -> Annotation:
    """One annotation; DataError if its category, box, area or crowd mark cannot be used."""
    where = f"annotation {entry['id']}"
    category_id, bbox, area, iscrowd = (entry.get(field) for field in ("category_id", "bbox", "area", "iscrowd"))
    if type(category_id) is not int or category_id not in label_of:
        known = brief(list(label_of))
        raise DataError(path, where, f"category_id {brief(category_id)} is not among the categories {known}")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(side) for side in bbox):
        raise DataError(path, where, f"bbox must be four finite numbers [x, y, width, height]; got {brief(bbox)}")
    left, top, width, height = map(float, bbox)
    if min(width, height) < HAIR:
        message = f"bbox [x, y, width, height] must have a positive size, {HAIR} px at least; got {bbox}"
        raise DataError(path, where, message)
    if area is not None and not (is_number(area) and area >= 0):
        raise DataError(path, where, f"area must be a finite number, not negative; got {brief(area)}")
    if iscrowd not in (None, 0, 1):
        raise DataError(path, where, f"iscrowd must be 0 or 1; got {brief(iscrowd)}")
    return Annotation((left, top, left + width, top + height), label_of[category_id], area, bool(iscrowd))


def find_picture(path: Path, entry: dict[str, Any]) -> Picture:
    """The file of one image; DataError if it is missing, is no image, or has another size than the JSON says."""
    file = path.parent / "images" / text(path, "image", entry, "file_name")
    where = f"image {entry['id']} of {path.name}"
    width, height = image_size(file, where)
    listed = entry.get("width", width), entry.get("height", height)
    if listed != (width, height):
        message = f"{path.name} gives its size as {brief(listed)}, upright it is {(width, height)} (width, height)"
        raise DataError(file, where, message)
    return Picture(file, where, width, height)


def target_of(image_id: int, annotations: list[Annotation], picture: Picture, repairs: Repairs) -> Target:
    """The true boxes of one image, clipped to it."""
    clipped = [(repairs.clip(each.box, picture.width, picture.height), each) for each in annotations]
    kept = [(box, each) for box, each in clipped if box is not None]
    boxes = torch.tensor([box for box, _ in kept], dtype=torch.float32).reshape(-1, 4)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) if each.area is None else float(each.area) for box, each in kept]
    return Target(
        boxes=boxes,
        labels=torch.tensor([each.label for _, each in kept], dtype=torch.int64),
        area=torch.tensor(areas, dtype=torch.float32),
        iscrowd=torch.tensor([each.iscrowd for _, each in kept], dtype=torch.bool),
        image_id=image_id,
    )
