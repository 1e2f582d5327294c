"""Read COCO's JSON, wherever the programs that write it put the files.

* this project's: `train.json`, `val.json`, `test.json` and `images/`;
* COCO's own: `annotations/instances_train2017.json` and `train2017/`;
* Roboflow's: `train/_annotations.coco.json` beside the images, `valid/`, `test/`;
* CVAT's: `annotations/instances_default.json` and `images/`; Label Studio's: `result.json` and `images/`;
* one JSON file.
"""

import gc
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from rl_det.data import Split
from rl_det.data.check import LARGEST_AREA, Corners, DataError, Findings, brief, is_number
from rl_det.data.files import Finder, parts_of, read_file
from rl_det.data.images import read_header
from rl_det.data.listing import UNKNOWN_AREA, ListedBoxes, ListedImage, Listing, Reading
from rl_det.errors import UserError

Kind = Literal["image", "annotation", "category"]
LISTS: Mapping[Kind, str] = {"image": "images", "annotation": "annotations", "category": "categories"}
SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test",
}  # fmt: skip
"""How people call the splits."""
WHOLE = ("instances_default", "_annotations.coco", "result", "annotations", "instances", "coco", "labels")
"""How files are called that hold a data set in one piece, without their suffix."""


def read_coco(path: Path, reading: Reading) -> dict[Split, Listing] | None:
    """The splits of a folder, or of one JSON file, which counts as training images. None: there is no such JSON."""
    root = path.parent if path.suffix == ".json" else path
    files: dict[Split, Path] = {"train": path} if path.suffix == ".json" else json_files(path, reading.findings)
    if not files:
        return None
    splits: dict[Split, Listing] = {}
    for split, file in files.items():
        try:
            splits[split] = _Document(file, root, reading).listing()
        except DataError as fault:
            reading.findings.add(fault)
    return splits


def json_files(root: Path, findings: Findings) -> dict[Split, Path]:
    """The JSON file of each split in a folder; a data set in one piece counts as training images.

    A file whose name only holds a split's word, such as train_config.json, counts if it has COCO's lists, or is damaged.
    """
    beside, annotations, nested = (
        sorted(file for file in root.glob(where) if not file.name.startswith("."))
        for where in ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    )
    instances = [file for file in annotations if file.stem.startswith("instances")]
    for files in (beside, nested, instances or annotations):
        named: dict[Split, list[Path]] = {}
        for file in files:
            split = split_of(file.parent.name if file in nested else file.stem)
            if split is None or file.stem.startswith(("image_info", "person_keypoints", "captions", "stuff")):
                continue
            if _is_usual(file) or _may_be_coco(file):
                named.setdefault(split, []).append(file)
        for split, several in named.items():
            several.sort(key=_is_usual, reverse=True)
            if len(several) > 1:
                others = ", ".join(file.name for file in several[1:])
                findings.warn(f"{several[0]}: is read for {split}; {others} could be meant too, and is not read")
        if named:
            return {split: several[0] for split, several in named.items()}
    whole = [file for file in (*beside, *annotations, *nested) if file.stem in WHOLE]
    return {"train": whole[0]} if whole else {}


def _is_usual(file: Path) -> bool:
    """Whether a program calls a split's annotations so, such as "test", "val2017" or "instances_train2017"."""
    word = re.sub(r"\d+$", "", file.stem.lower().removeprefix("instances_"))
    return word in SPLIT_WORDS or file.stem in WHOLE


def _may_be_coco(file: Path) -> bool:
    """Whether a file has COCO's lists, or is damaged, which is a fault; other programs' JSON is left alone."""
    try:
        content = read_file(file)
        if all(f'"{name}"'.encode() in content for name in LISTS.values()):
            return True
        document = json.loads(content)
    except (ValueError, RecursionError):  # DataError too
        return True
    return isinstance(document, dict) and document.keys() >= set(LISTS.values())


def split_of(name: str) -> Split | None:
    """The split that a file's or folder's name says ("instances_train2017", "valid"), or None."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^0-9a-z]+", name.lower())]
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


@dataclass
class _Document:
    """One JSON file on its way to a listing."""

    path: Path
    root: Path
    reading: Reading

    @property
    def findings(self) -> Findings:
        """What is wrong with the file."""
        return self.reading.findings

    def listing(self) -> Listing:
        """What the file lists. DataError if it is not COCO's; faults of single entries are found, and left out."""
        document = read_document(self.path)
        categories = self.entries_by_id(document, "category")
        names = {key: name for key in sorted(categories) if (name := self.text("category", categories[key], "name"))}
        above = [entry.get("supercategory") for entry in categories.values()]
        images, place = self.images(document)
        return Listing(
            path=self.path,
            root=self.root,
            images=images,
            categories=names,
            boxes=self.boxes(document, images, place, categories.keys()),
            root_categories=frozenset(key for key, name in names.items() if name in above),
        )

    def images(self, document: dict[str, Any]) -> tuple[list[ListedImage], dict[int, int | None]]:
        """The images whose files exist, and the place of each id; None for an image with a fault."""
        finder = Finder(self.root, image_folders(self.path, self.root))
        images: list[ListedImage] = []
        place: dict[int, int | None] = {}
        known: dict[Path, tuple[int, list[str]]] = {}
        for key, entry in self.entries_by_id(document, "image").items():
            where = f"image {key} of {self.path.name}"
            place[key] = None
            try:
                name = entry.get("file_name")
                if not isinstance(name, str) or not name:
                    raise DataError(
                        self.path, f"image {key}", f"file_name must be a non-empty string; got {brief(name)}"
                    )
                file = finder.find(name, self.path, where)
                self.check_other(known.setdefault(file, (key, parts_of(name))), name, file, where)
                size = self.size_of(entry, file, where)
            except DataError as fault:
                self.findings.add(fault)
                continue
            place[key] = len(images)
            images.append(ListedImage(key, file, where, size))
        if 0 in finder.shortened and len(finder.shortened) > 1:
            name, file = finder.shortened[max(finder.shortened)]
            self.findings.warn(
                f"{self.path}: some images lie where their file_name says, and others without its folders; "
                f"{brief(name)} is taken to be {file.relative_to(self.root)}"
            )
        if (repeated := len(images) - len({image.file for image in images})) > 0:
            self.findings.warn(f"{self.path}: {repeated} of {len(images)} images are listed twice, under other ids")
        return images, place

    def check_other(self, first: tuple[int, list[str]], name: str, file: Path, where: str) -> None:
        """Raise DataError if the file is that of another name, of which folders were left out."""
        key, parts = first
        if parts_of(name) != parts:
            other = f"image {key}, {brief('/'.join(parts))}"
            raise DataError(file, where, f"file_name {brief(name)} leads to this file, which is also that of {other}")

    def size_of(self, entry: dict[str, Any], file: Path, where: str) -> tuple[int, int] | None:
        """The size that the JSON gives, or None; DataError if it is none."""
        width, height = entry.get("width"), entry.get("height")
        if width is None or height is None:
            return None
        if not (is_number(width) and is_number(height) and width % 1 == height % 1 == 0):
            listed = brief((width, height))
            raise DataError(file, where, f"{self.path.name} gives its size as {listed}, which must be two counts")
        return int(width), int(height)

    def boxes(
        self,
        document: dict[str, Any],
        images: list[ListedImage],
        place: dict[int, int | None],
        category_ids: Any,
    ) -> ListedBoxes:
        """The annotations in the file's order."""
        boxes = ListedBoxes()
        for key, entry in self.entries_by_id(document, "annotation").items():
            image_id, category_id, iscrowd = entry.get("image_id"), entry.get("category_id"), entry.get("iscrowd")
            try:
                if type(image_id) is not int or image_id not in place:
                    raise self.wrong(key, f"image_id {brief(image_id)} is not among the images")
                if type(category_id) is not int or category_id not in category_ids:
                    known = brief(sorted(category_ids))
                    raise self.wrong(key, f"category_id {brief(category_id)} is not among the categories {known}")
                if iscrowd not in (None, 0, 1):
                    raise self.wrong(key, f"iscrowd must be 0 or 1; got {brief(iscrowd)}")
                image = place[image_id]
                if image is None:
                    continue
                corners, area = self.box(key, entry, images[image])
            except DataError as fault:
                self.findings.add(fault)
                continue
            boxes.add(key, image, category_id, corners, area=area, iscrowd=bool(iscrowd))
        return boxes

    def box(self, key: int, entry: dict[str, Any], image: ListedImage) -> tuple[Corners, float]:
        """The corners and the area of an annotation: its own, else those of its segmentation."""
        bbox, area, segmentation = entry.get("bbox"), entry.get("area"), entry.get("segmentation")
        if area is not None and not (is_number(area) and 0 <= area <= LARGEST_AREA):
            raise self.wrong(key, f"area must be a finite number, not negative; got {brief(area)}")
        shape = None
        if segmentation and (bbox is None or area is None):
            try:
                shape = shape_of(
                    segmentation, *(image.size or read_header(image.file, image.entry, self.reading.limits)[:2])
                )
            except UserError as fault:
                if bbox is None:
                    raise self.wrong(key, str(fault)) from fault
        if bbox is None and shape is not None:
            corners, own = shape
            return corners, own if area is None else float(area)
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(side) for side in bbox):
            raise self.wrong(key, f"bbox must be four finite numbers [x, y, width, height]; got {brief(bbox)}")
        left, top, width, height = map(float, bbox)
        own = UNKNOWN_AREA if shape is None else shape[1]
        return (left, top, left + width, top + height), own if area is None else float(area)

    def entries_by_id(self, document: dict[str, Any], kind: Kind) -> dict[int, dict[str, Any]]:
        """One of the three lists by id, in its own order; entries without an id of their own are faults."""
        entries = document.get(LISTS[kind])
        if not isinstance(entries, list):
            raise DataError(self.path, LISTS[kind], f"not COCO: must be a list; got {brief(entries)}")
        if not entries and kind != "annotation":
            raise DataError(self.path, LISTS[kind], "the list is empty; a split needs at least one of each")
        by_id: dict[int, dict[str, Any]] = {}
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict) or type(entry.get("id")) is not int or abs(entry["id"]) >= 2**63:
                where = f"{LISTS[kind]}[{position}]"
                self.findings.fault(self.path, where, f"must be an object with an integer id; got {brief(entry)}")
            elif by_id.setdefault(entry["id"], entry) is not entry:
                self.findings.fault(self.path, f"{kind} {entry['id']}", f"two of the {LISTS[kind]} have this id")
        return by_id

    def text(self, kind: Kind, entry: dict[str, Any], field: str) -> str | None:
        """A field that must be a non-empty string, else a fault."""
        value = entry.get(field)
        if isinstance(value, str) and value:
            return value
        self.findings.fault(
            self.path, f"{kind} {entry['id']}", f"{field} must be a non-empty string; got {brief(value)}"
        )
        return None

    def wrong(self, key: int, message: str) -> DataError:
        """A fault of one annotation."""
        return DataError(self.path, f"annotation {key}", message)


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError if there is none, or if an object has a key twice."""
    content = read_file(path)
    try:
        with _without_collector():
            document = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise DataError(path, "the file", f"not JSON ({fault})") from fault
    if not isinstance(document, dict):
        raise DataError(path, "the file", f"not COCO: must hold one JSON object; got {brief(document)}")
    return document


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector of circles walks over all that was read, again and again, and JSON has no circles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def image_folders(path: Path, root: Path) -> list[Path]:
    """Where the images of a JSON file may lie, the likeliest first."""
    named = path.stem.removeprefix("instances_")  # train2017
    beside = [path.parent / "images", path.parent] if path.parent != root / "annotations" else []
    return [*beside, root / "images" / named, root / named, root / "images", root]


def shape_of(segmentation: Any, width: int, height: int) -> tuple[Corners, float]:
    """The box around polygons or a run-length encoding, and its area as COCO has it; UserError for anything else.

    A polygon's box has the polygon's own extremes, as in COCO's files; an encoding's box is that of its pixels.
    """
    if isinstance(segmentation, dict):
        return _shape_of_runs(segmentation, width, height)
    polygons = segmentation if isinstance(segmentation, list) else None
    if not polygons or not all(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(is_number, polygon))
        for polygon in polygons
    ):
        raise UserError(
            f"segmentation must be polygons [[x, y, ...]] of three points at least, or runs; got {brief(segmentation)}"
        )
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    inside = [np.asarray(polygon, np.float64).reshape(-1, 2).clip(0, (width, height)).ravel() for polygon in polygons]
    area = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(inside, height, width))))
    return (left, top, right, bottom), area


def _shape_of_runs(runs: dict[str, Any], width: int, height: int) -> tuple[Corners, float]:
    counts, size = runs.get("counts"), runs.get("size", [height, width])
    if size != [height, width]:
        raise UserError(f"segmentation must have the image's size {[height, width]}; got {brief(size)}")
    if isinstance(counts, str):
        counts = _counts_of(counts)
        counts += [0] * (len(counts) % 2) + [width * height - sum(counts)]  # the end may be left out
    if not isinstance(counts, list):
        raise UserError(f"segmentation counts must be a list or a string; got {brief(counts)}")
    if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != width * height:
        raise UserError(f"segmentation counts must be lengths that fill the image; got {brief(counts)}")
    ends = np.cumsum(np.array(counts, np.int64))[1::2]  # of the runs inside, down the columns
    lengths = np.array(counts, np.int64)[1::2]
    first, last = (ends - lengths)[lengths > 0], ends[lengths > 0] - 1
    if not len(first):
        return (0.0, 0.0, 0.0, 0.0), 0.0
    over = first // height != last // height  # reaches the next column, so from the lowest row to the highest
    top, bottom = np.where(over, 0, first % height).min(), np.where(over, height - 1, last % height).max() + 1
    left, right = first.min() // height, last.max() // height + 1
    return (float(left), float(top), float(right), float(bottom)), float(lengths.sum())


def _counts_of(text: str) -> list[int]:
    """The lengths in COCO's compressed form; UserError for anything else, with which pycocotools writes past its memory.

    It is that of rleFrString in pycocotools/common/maskApi.c: five bits a letter, the lowest first, and from the fourth
    length on the difference to the last but one.
    """
    counts: list[int] = []
    number = bits = 0
    for letter in text:
        value = ord(letter) - 48
        if not 0 <= value < 64 or bits > 30:
            raise UserError(f"segmentation counts must be a run-length encoding of the image; got {brief(text)}")
        number |= (value & 31) << bits
        bits += 5
        if value & 32:  # more of this length follows
            continue
        number -= (value & 16 != 0) << bits
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = bits = 0
    if bits:
        raise UserError(f"segmentation counts must be a run-length encoding of the image; got {brief(text)}")
    return counts


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs, without a segmentation that is not needed; ValueError for a key that comes twice."""
    entry = dict(pairs)
    if len(entry) != len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice in one object")
    if "segmentation" in entry and entry.get("bbox") is not None and entry.get("area") is not None:
        del entry["segmentation"]  # most of the bytes of COCO's files
    return entry
