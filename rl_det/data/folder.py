"""Open a folder of any layout as three splits: look at what lies there, check it, and say in one line what it is."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rl_det.data import Split
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import DataError, Findings, is_background
from rl_det.data.coco import read_coco
from rl_det.data.images import ImageLimits
from rl_det.data.listing import ListedBoxes, Listing, Reader, Reading
from rl_det.data.same_images import images_in_both
from rl_det.data.splits import Splits
from rl_det.data.voc import read_voc
from rl_det.data.yolo import read_yolo

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SHARES: Mapping[Split, float] = {"train": 0.7, "val": 0.15, "test": 0.15}
"""The share of the largest split's images that a missing split takes; a missing test split takes half of val's."""
DIVIDED_BY_SEED = 0


class Layout(NamedTuple):
    """A layout of files."""

    name: str
    """The name that is said."""
    read: Reader
    """The function that reads it."""
    lists_classes: bool = True
    """Whether the files list all classes; else the classes are those of the objects."""


LAYOUTS: tuple[Layout, ...] = (
    Layout("COCO", read_coco),
    Layout("YOLO", read_yolo),
    Layout("Pascal VOC", read_voc, lists_classes=False),
)
"""The layouts that `open_data` knows; the first that recognises a folder opens it. A new one is one file and one line
here."""
KNOWN = (
    "COCO (train.json, val.json, test.json and images/; annotations/instances_*.json; train/_annotations.coco.json), "
    "YOLO (data.yaml, images/, labels/; classes.txt, images and txt files in one folder; obj.names, train.txt, "
    "obj_train_data/), Pascal VOC (Annotations/ and JPEGImages/, or xml files beside the images)"
)


@dataclass(kw_only=True)
class Opened:
    """The splits of a folder, and what was said of them."""

    layout: str
    splits: dict[Split, AnnotatedImages]
    categories: dict[int, str]
    notes: list[str] = field(default_factory=list)
    """What was done that changes results: splits that were divided, classes that were left out."""

    def told(self, path: Path) -> str:
        """One line: the layout, the images of each split, the number of classes."""
        counts = ", ".join(f"{len(images)} {split}" for split, images in self.splits.items())
        return f"{path}: {self.layout}, {counts} images, {len(self.categories)} classes"

    def as_splits(self, name: str) -> Splits:
        """The same as the data of a run."""
        return Splits(
            train=self.splits["train"],
            val=self.splits["val"],
            test=self.splits["test"],
            name=name,
            category_ids=tuple(self.categories),
            notes=tuple(self.notes),
        )


def read_folder(
    path: Path,
    findings: Findings,
    *,
    limits: ImageLimits | None = None,
    keep_difficult: bool = False,
    test: Path | None = None,
    classes: Sequence[str] | None = None,
) -> Opened:
    """Read a folder's splits, or those of one annotation file; `test` is another folder or file with the test images.

    `classes` gives the order of the labels, else it is that of the category ids; VOC's, which no file lists, may name more
    than the objects do. Adds what is wrong to the findings. Raises
    DataError if nothing there is of a known layout.
    """
    reading = Reading(findings=findings, keep_difficult=keep_difficult, limits=limits or ImageLimits())
    layout, listings = _listings(path, reading)
    if test is not None:
        _, others = _listings(test, reading)
        for split in (split for split in SPLITS if split in others):  # its last one
            listings["test"] = _with_ids_of(next(iter(listings.values()), others[split]), others[split])
    notes: list[str] = []
    listings = {split: listings[split] for split in SPLITS if split in listings}
    categories = _categories(listings, findings, notes)
    if classes is not None:
        categories = _in_order(path, categories, classes, may_add=not layout.lists_classes)
    if not findings.faults:  # else a split may be missing because its file is broken
        listings = _divided(listings, findings, notes)
    splits = {
        split: AnnotatedImages(listings[split], categories, findings, limits) for split in SPLITS if split in listings
    }
    opened = Opened(layout=layout.name, splits=splits, categories=categories, notes=notes)
    for split, images in splits.items():
        check_split(split, images, findings)
    for one, other, count in images_in_both(splits):
        findings.warn(
            f"{path}: {count} of {len(splits[other])} {other} images are {one} images too, so their figures will flatter"
        )
    return opened


def _listings(path: Path, reading: Reading) -> tuple[Layout, dict[Split, Listing]]:
    if not path.exists():
        raise DataError(path, "the folder", "there is none of this name")
    for layout in LAYOUTS:
        if (listings := layout.read(path, reading)) is not None:
            return layout, listings
    inside = ", ".join(sorted(each.name for each in path.iterdir())[:8]) if path.is_dir() else "one file"
    inside = inside or "nothing"
    raise DataError(path, "the folder", f"must be of a layout that is known: {KNOWN}; it holds {inside}")


def _with_ids_of(first: Listing, other: Listing) -> Listing:
    """The other listing with the first one's category ids, if the first knows its names; else as it is.

    Two folders may number their classes each in its own way, and VOC's classes are those that a folder happens to hold.
    """
    id_of = {name: key for key, name in first.categories.items()}
    used = set(other.boxes.category_id)
    if len(id_of) < len(first.categories) or not (
        set(other.categories.values()) <= id_of.keys() and used <= other.categories.keys()
    ):
        return other
    ids = array("q", (id_of[other.categories[key]] for key in other.boxes.category_id))
    return replace(other, categories=first.categories, boxes=replace(other.boxes, category_id=ids))


def _categories(listings: Mapping[Split, Listing], findings: Findings, notes: list[str]) -> dict[int, str]:
    """The classes by rising id, which all splits share, without one that only stands above the others."""
    if not listings:
        return {}
    first = next(iter(listings.values()))
    for listing in listings.values():
        if listing.categories != first.categories:
            findings.fault(
                listing.path,
                "categories",
                f"must be those of {first.path.name}, {first.categories}; got {listing.categories}",
            )
    used = {each for listing in listings.values() for each in set(listing.boxes.category_id)}
    categories: dict[int, str] = {}
    for key, name in sorted(first.categories.items()):
        is_root = key in first.root_categories
        if (is_root or is_background(name)) and key not in used and len(first.categories) > 1:
            why = "only stands above others" if is_root else "is the background"
            notes.append(f"the class {name!r} has no annotation in any split and {why}: it is left out")
        elif name in categories.values():
            twin = next(other for other, own in categories.items() if own == name)
            findings.fault(first.path, f"category {key}", f"the name {name!r} is that of category {twin} too")
        else:
            categories[key] = name
    return categories


def _in_order(path: Path, categories: Mapping[int, str], classes: Sequence[str], *, may_add: bool) -> dict[int, str]:
    """The categories in the order of these names; DataError unless they are the same names.

    With `may_add`, names that the data lack are classes without an object.
    """
    id_of = {name: key for key, name in categories.items()}
    if may_add:
        absent = [name for name in classes if name not in id_of]
        id_of |= {name: key for key, name in enumerate(absent, start=1 + max(categories, default=0))}
    if sorted(classes) != sorted(id_of):
        raise DataError(
            path, "classes", f"must be the data's own names in any order, {list(id_of)}; got {list(classes)}"
        )
    return {id_of[name]: name for name in classes}


def _divided(listings: dict[Split, Listing], findings: Findings, notes: list[str]) -> dict[Split, Listing]:
    """The splits with those that are missing taken from others by seed: test from val, else each from train."""
    result = dict(listings)
    rng = np.random.default_rng(DIVIDED_BY_SEED)
    for split in ("train", "test", "val"):
        if split in result or not result:
            continue
        halves = split == "test" and "val" in result
        source: Split = "val" if halves else max(result, key=lambda each: len(result[each].images))
        count = len(result[source].images)
        if count < 2:
            findings.fault(result[source].path, "images", f"there is no {split} split, and {count} image to divide")
            continue
        taken = np.zeros(count, bool)
        taken[rng.permutation(count)[: max(1, round((0.5 if halves else SHARES[split]) * count))]] = True
        notes.append(
            f"there is no {split} split: {int(taken.sum())} of {count} {source} images are taken for it, by seed "
            f"{DIVIDED_BY_SEED}; test= names another"
        )
        result[split], result[source] = part_of(result[source], taken), part_of(result[source], ~taken)
    return result


def part_of(listing: Listing, taken: np.ndarray) -> Listing:
    """The listing with some of its images."""
    place = np.where(taken, taken.cumsum() - 1, -1)
    own, boxes = listing.boxes, ListedBoxes(named=listing.boxes.named)
    for row, image in enumerate(own.image):
        if place[image] >= 0:
            left, top, right, bottom = own.corners[4 * row : 4 * row + 4]
            boxes.add(
                own.number[row],
                int(place[image]),
                own.category_id[row],
                (left, top, right, bottom),
                area=own.area[row],
                iscrowd=bool(own.iscrowd[row]),
            )
    images = [image for image, kept in zip(listing.images, taken.tolist(), strict=True) if kept]
    return replace(listing, images=images, boxes=boxes)


def check_split(split: Split, images: AnnotatedImages, findings: Findings) -> None:
    """Find what makes a split useless, and what is likely wrong with it."""
    if not len(images.boxes):
        findings.fault(images.path, "annotations", "the split holds no box: nothing to train on or to measure")
    elif images.iscrowd.all():
        findings.fault(
            images.path,
            "annotations",
            "the split holds no box that is to be found (all are crowds): nothing to train on or to measure",
        )
    else:
        absent = [name for name, count in images.class_counts().items() if not count]
        if absent:
            findings.warn(f"{images.path}: {split} has no annotation of {', '.join(absent)}")
    if images.num_turned:
        findings.warn(
            f"{images.path}: {images.num_turned} of {len(images)} images are turned by their EXIF orientation; boxes are taken "
            "as drawn on the upright picture"
        )
