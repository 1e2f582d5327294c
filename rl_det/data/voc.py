"""Read Pascal VOC's XML, one file an image, with the images beside it or in `JPEGImages/` or `images/`.

* VOC's own: `Annotations/`, `JPEGImages/` and `ImageSets/Main/{train,val,test,trainval}.txt`
  (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf); without the lists, all images are training images;
* Roboflow's: `train/`, `valid/` and `test/`, each XML file beside its image;
* LabelImg's: one folder with both.

VOC's corners are whole pixels counted from 1, the last one included, so a box reaches from (xmin - 1, ymin - 1) to
(xmax, ymax), as detectron2 reads them (detectron2/data/datasets/pascal_voc.py). LabelImg, CVAT and others write corners
counted from 0 into the same form. Only a corner below 1 proves it: if the files hold one anywhere, nothing is subtracted,
and a warning says so. Files that count from 0 without such a corner cannot be told apart: their boxes are one pixel too
large on the left and at the top.

Classes are the sorted names of all splits, from 1; images are numbered from 1 by their sorted paths. An image without an
XML file is left out, as it may be unlabelled. An image whose file holds no object has none. A difficult object is taken as
a crowd: VOC counts detections of it neither way, and so do the metrics for a crowd (they match it by the share of the
detection inside it).
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

from rl_det.data import Split
from rl_det.data.check import Corners, DataError, Findings, brief
from rl_det.data.coco import split_of
from rl_det.data.files import IMAGE_SUFFIXES, LARGEST_PART, Finder, images_below, inside, parts_of, read_file
from rl_det.data.listing import ListedBoxes, ListedImage, Listing, Reading
from rl_det.errors import UserError

IMAGE_FOLDERS = ("JPEGImages", "images")
WHOLE_LISTS = ("default",)
"""Lists of data sets in one piece, without their suffix: CVAT's."""


class Files(NamedTuple):
    """The XML files of a split, and the file or folder that lists them."""

    path: Path
    annotations: dict[Path, str]
    """What lists each file, for messages."""


class Object(NamedTuple):
    """One object of one image, its corners as its file has them."""

    image: int
    number: int
    """Its place in the file, from 1."""
    name: str
    corners: Corners
    difficult: bool


def read_voc(path: Path, reading: Reading) -> dict[Split, Listing] | None:
    """The splits of a folder. None: it holds no XML files where VOC's layouts have them."""
    files = annotation_files(path, reading.findings) if path.is_dir() else {}
    if not files:
        return None
    folders = ImageFolders(path)
    splits = {split: _SplitReader(own, path, folders, reading.findings) for split, own in files.items()}
    for split in splits.values():
        split.read()
    names = sorted({each.name for split in splits.values() for each in split.objects})
    corners = [each.corners for split in splits.values() for each in split.objects]
    first = 1.0
    if min((min(left, top) for left, top, _, _ in corners), default=first) < first:
        first = 0.0
        reading.findings.warn(
            f"{path}: some corners lie below 1, so all are taken as counted from 0, not from 1 as in VOC"
        )
    return {split: own.listing(names, first, reading.keep_difficult) for split, own in splits.items()}


def annotation_files(root: Path, findings: Findings) -> dict[Split, Files]:
    """The XML files of each split; none if the folder is of another layout."""
    folder = next((root / name for name in ("Annotations", "annotations") if _xml_below(root / name)), None)
    if folder is not None:
        return _listed(root, folder, findings) or {"train": _all_below(folder)}
    splits: dict[Split, Files] = {}
    for folder in sorted(each for each in root.glob("*") if each.is_dir() and inside(root, each)):
        split = split_of(folder.name)
        if split is not None and (own := _all_below(folder)).annotations:
            splits[split] = Files(folder, splits.get(split, own).annotations | own.annotations)
    if splits:
        return splits
    beside = [file for file in _xml_below(root) if file.parent == root and _is_annotation(file)]
    return {"train": Files(root, {file: f"image of {file.name}" for file in beside})} if beside else {}


def _xml_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.xml") if not file.name.startswith("."))


def _all_below(folder: Path) -> Files:
    return Files(folder, {file: f"image of {file.name}" for file in _xml_below(folder)})


def _is_annotation(file: Path) -> bool:
    """Whether an image has the same name; other programs leave XML files in folders too."""
    return any(file.with_suffix(suffix).exists() for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)))


def _listed(root: Path, folder: Path, findings: Findings) -> dict[Split, Files]:
    """The XML files that the lists of `ImageSets/Main/` name; `trainval` gives what the others lack."""
    known = {file.relative_to(folder).with_suffix("").as_posix(): file for file in _xml_below(folder)}
    lists: dict[str, Files] = {}
    for name in ("train", "val", "test", "trainval", *WHOLE_LISTS):
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        if os.path.lexists(file):
            lists[name] = Files(file, _of_list(file, root, folder, known, findings))
    splits: dict[Split, Files] = {}
    pairs: tuple[tuple[Split, Split], ...] = (("train", "val"), ("val", "train"))
    whole = lists.get("trainval")
    for split, other in pairs:
        if split in lists:
            splits[split] = lists[split]
        elif whole is not None and (split == "train" or "train" in lists):
            apart = lists[other].annotations if other in lists else {}
            splits[split] = Files(
                whole.path, {each: line for each, line in whole.annotations.items() if each not in apart}
            )
    if "test" in lists:
        splits["test"] = lists["test"]
    return splits or ({"train": lists["default"]} if "default" in lists else {})


def _of_list(file: Path, root: Path, folder: Path, known: Mapping[str, Path], findings: Findings) -> dict[Path, str]:
    """The XML files that a list names; a second column, which says whether a class is in the image, is not read."""
    try:
        if inside(root, file) is None:
            raise DataError(file, "the file", f"must be a file in the data's folder, {root}")
        text = read_file(file, largest=LARGEST_PART * 16).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        findings.fault(file, "the file", f"not text in UTF-8 ({fault.reason} at byte {fault.start})")
        return {}
    except DataError as fault:
        findings.add(fault)
        return {}
    found: dict[Path, str] = {}
    twice = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        names = [line.strip(), line.split()[0]]
        names += [name.rpartition(".")[0] for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        own = next((known[name] for name in names if name in known), None)
        if own is None:
            findings.fault(
                file, f"line {number}", f"there is no annotation file {brief(names[1] + '.xml')} in {folder.name}"
            )
        elif found.setdefault(own, f"line {number} of {file.name}") != f"line {number} of {file.name}":
            twice += 1
    if twice:
        findings.warn(f"{file}: {twice} lines name an image that another line names too")
    return found


class ImageFolders:
    """Finds the image of an annotation file: of the same name without suffix, else of the name that the file gives.

    Of several with the same name, such as an image and its mask, it is the one whose suffix the file gives.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[Path, dict[str, list[Path]]] = {}
        self.finder = Finder(root, [*(root / name for name in IMAGE_FOLDERS), root])

    def find(self, annotation: Path, filename: str, entry: str) -> Path:
        """The image; DataError if there is none."""
        below = annotation.parent.relative_to(self.root).parts
        folders = [annotation.parent]
        for name in IMAGE_FOLDERS:
            folders += [
                self.root.joinpath(*below[:end], name, *below[end + 1 :]) for end in range(len(below) - 1, -1, -1)
            ]
            folders += [self.root.joinpath(*below[:end], name) for end in range(len(below), -1, -1)]
        for folder in folders:
            if several := self.images(folder).get(annotation.stem):
                found = _meant(several, filename, annotation)
                self.finder.check_inside(found, entry)
                return found
        if not filename:
            wanted = f"there is no image {annotation.stem}.* in {' or '.join(IMAGE_FOLDERS)} or beside it"
            raise DataError(annotation, "filename", wanted)
        return self.finder.find(filename, annotation, entry)

    def images(self, folder: Path) -> dict[str, list[Path]]:
        """The images of one folder by their names without suffix."""
        if folder not in self.files:
            self.files[folder] = {}
            for file in images_below(folder) if folder.is_dir() else []:
                if file.parent == folder:
                    self.files[folder].setdefault(file.stem, []).append(file)
        return self.files[folder]


def _meant(several: Sequence[Path], filename: str, annotation: Path) -> Path:
    """The image of this file name, if there are several; DataError if none has it."""
    if len(several) == 1:
        return several[0]
    named = [file for file in several if parts_of(filename)[-1:] == [file.name]]
    if not named:
        wanted = f"must be one of {', '.join(file.name for file in several)}"
        raise DataError(annotation, "filename", f"{wanted}; got {brief(filename)}")
    return named[0]


@dataclass
class _SplitReader:
    """One split on its way to a listing."""

    files: Files
    root: Path
    folders: ImageFolders
    findings: Findings
    images: list[ListedImage] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)
    """The XML file of each image."""
    objects: list[Object] = field(default_factory=list)

    def read(self) -> None:
        """Read all files; a fault for each that has one."""
        documents = []
        for file, entry in self.files.annotations.items():
            try:
                if inside(self.root, file) is None:
                    raise DataError(file, "the file", f"must be a file in the data's folder, {self.root}")
                document = annotation_of(file)
                image = self.folders.find(file, _text(document, "filename"), entry)
                documents.append((image, file, entry, size_of(document, file), self.objects_of(document, file)))
            except DataError as fault:
                self.findings.add(fault)
        documents.sort(key=lambda document: document[0].relative_to(self.root).as_posix())
        for image, file, entry, size, objects in documents:
            if self.images and self.images[-1].file == image:
                self.findings.fault(file, "filename", f"{self.annotations[-1].name} is of the same image, {image.name}")
                continue
            self.objects += [each._replace(image=len(self.images)) for each in objects]
            self.images.append(ListedImage(len(self.images) + 1, image, entry, size))
            self.annotations.append(file)
        if not self.images:
            self.findings.fault(self.files.path, "the file", "names no image that can be used")

    def objects_of(self, document: Element, file: Path) -> list[Object]:
        """The objects of one file; a fault for each that has one."""
        objects = []
        for number, element in enumerate(document.findall("object"), start=1):
            try:
                objects.append(object_of(element, number))
            except UserError as fault:
                self.findings.fault(file, f"object {number}", str(fault))
        return objects

    def listing(self, names: list[str], first: float, keep_difficult: bool) -> Listing:
        """The split, its boxes in coordinates from 0; `first` is the number of the first pixel in the files."""
        category_ids = {name: number for number, name in enumerate(names, start=1)}
        boxes = ListedBoxes(named=self.named)
        for row, (image, _, name, (left, top, right, bottom), difficult) in enumerate(self.objects):
            corners = left - first, top - first, right, bottom
            boxes.add(row, image, category_ids[name], corners, iscrowd=difficult and not keep_difficult)
        categories = {number: name for name, number in category_ids.items()}
        return Listing(path=self.files.path, root=self.root, images=self.images, categories=categories, boxes=boxes)

    def named(self, row: int) -> str:
        """An object in messages: "Annotations/a.xml: object 3"."""
        own = self.objects[row]
        return f"{self.annotations[own.image].relative_to(self.root)}: object {own.number}"


def annotation_of(file: Path) -> Element:
    """The root of an annotation file; DataError if it is none, or declares entities, which could fill the memory."""
    content = read_file(file, largest=LARGEST_PART)
    try:
        document: Element = ElementTree.fromstring(content)
    except (ParseError, ValueError, LookupError) as fault:
        raise DataError(file, "the file", f"not XML that can be read ({fault})") from fault
    if document.tag != "annotation":
        raise DataError(file, "the file", f"not Pascal VOC: must hold one <annotation>; got <{document.tag[:32]}>")
    return document


def size_of(document: Element, file: Path) -> tuple[int, int] | None:
    """The (width, height) that a file gives; None where it gives none, or zeros, as many programs write."""
    sides = [_text(document, f"size/{side}") for side in ("width", "height")]
    if not all(sides):
        return None
    try:
        width, height = map(_number, sides)
        if width != int(width) or height != int(height) or min(width, height) < 0:
            raise UserError(f"must be two counts; got {brief(sides)}")
    except UserError as fault:
        raise DataError(file, "size", str(fault)) from fault
    return (int(width), int(height)) if width and height else None


def object_of(element: Element, number: int) -> Object:
    """One <object>, still of image 0; UserError if something is missing or no number."""
    name, difficult, boxes = _text(element, "name"), _text(element, "difficult"), element.findall("bndbox")
    if not name:
        raise UserError("must have a <name>")
    if difficult not in ("", "0", "1"):
        raise UserError(f"<difficult> must be 0 or 1; got {brief(difficult)}")
    if len(boxes) != 1:
        raise UserError(f"must have one <bndbox>; got {len(boxes)}")
    sides = [_text(boxes[0], side) for side in ("xmin", "ymin", "xmax", "ymax")]
    if not all(sides):
        raise UserError(f"<bndbox> must have xmin, ymin, xmax and ymax; got {brief(sides)}")
    left, top, right, bottom = map(_number, sides)
    if right < left or bottom < top:
        raise UserError(f"xmax and ymax must not be less than xmin and ymin; got {brief(sides)}")
    return Object(0, number, name, (left, top, right, bottom), difficult == "1")


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError as fault:
        raise UserError(f"must be a number; got {brief(text)}") from fault
    if "_" in text or not math.isfinite(number):
        raise UserError(f"must be a finite number; got {brief(text)}")
    return number
