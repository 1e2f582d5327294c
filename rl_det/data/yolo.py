"""Read YOLO's labels: one text file an image, beside it or in `labels/` where the image is in `images/`.

`yolo_description` finds the splits and the names of the classes. Ultralytics' loader is ultralytics/data/utils.py:
img2label_paths, verify_image_label.

A line is `class cx cy w h`, in shares of the upright image. `class x1 y1 x2 y2 x3 y3 ...` is a polygon
(https://docs.ultralytics.com/datasets/segment; an oriented box has four points): it becomes the box around it with the
polygon's area. If the YAML has `kpt_shape`, a box's line goes on with its keypoints, which are not read. An image without
a label file has no objects. Category ids are the class numbers from 0; images are numbered from 1 by their sorted paths.
"""

import math
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rl_det.data import Split
from rl_det.data.check import Corners, DataError, brief
from rl_det.data.coco import shape_of
from rl_det.data.files import LARGEST_PART, Finder, images_below
from rl_det.data.images import read_header
from rl_det.data.listing import UNKNOWN_AREA, ListedBoxes, ListedImage, Listing, Reading
from rl_det.data.yolo_description import Description, described, text_of
from rl_det.errors import UserError

TOLERANCE = 0.01
"""How far a share may lie outside [0, 1]: Ultralytics' own tolerance."""


def read_yolo(path: Path, reading: Reading) -> dict[Split, Listing] | None:
    """The splits of a folder, or of one YAML file; None if nothing there names the classes of a YOLO data set."""
    description = described(path, reading)
    if description is None:
        return None
    splits: dict[Split, Listing] = {}
    for split, places in description.places.items():
        listing = _SplitReader(split, description, reading).listing(places)
        if listing.images or split != "test":
            splits[split] = listing
        else:
            reading.findings.warn(f"{listing.path}: test holds no image, so it is taken from another split")
    if not splits and not reading.findings.faults:
        raise DataError(description.file, "the file", "must name a split that is there")
    return splits


class _Place(NamedTuple):
    """An image of a split and the line that lists it, if any."""

    file: Path
    line: str | None


class _SplitReader:
    """One split on its way to a listing."""

    def __init__(self, split: Split, description: Description, reading: Reading) -> None:
        self.split, self.description, self.reading = split, description, reading
        self.boxes = ListedBoxes(named=self.named)
        self.sources: list[Path] = []
        """The label files."""
        self.source, self.line = array("q"), array("q")
        """Of each box, its file's place among the sources, and its line."""

    def named(self, number: int) -> str:
        """The box with this number in messages: "labels/a.txt: line 3"."""
        file = self.sources[self.source[number - 1]]
        return f"{file.relative_to(self.description.root)}: line {self.line[number - 1]}"

    def listing(self, places: Sequence[Path]) -> Listing:
        """All images of the split with their boxes."""
        root, findings = self.description.root, self.reading.findings
        path = places[0] if len(places) == 1 else self.description.file
        finder = Finder(root, [*(place if place.is_dir() else place.parent for place in places), root])
        found = sorted(self.images(places, finder), key=lambda place: place.file.relative_to(root).as_posix())
        by_file: dict[Path, _Place] = {}
        for place in found:
            by_file.setdefault(place.file, place)
        if len(by_file) < len(found):
            findings.warn(f"{path}: {len(found) - len(by_file)} of {len(found)} {self.split} images are listed twice")
        images = []
        for image_id, place in enumerate(by_file.values(), start=1):
            size = self.read(place.file, image_id, finder)
            entry = place.line or f"image {image_id} of {self.split}"
            images.append(ListedImage(image_id, place.file, entry, size))
        if not images and self.split != "test":
            findings.fault(path, self.split, "holds no image")
        elif images and not self.sources:
            wanted = label_files(images[0].file, root)[0].relative_to(root)
            findings.fault(path, self.split, f"none of the {len(images)} images has a label file, such as {wanted}")
        return Listing(path=path, root=root, images=images, categories=self.description.names, boxes=self.boxes)

    def images(self, places: Iterable[Path], finder: Finder) -> Iterable[_Place]:
        """The images of folders and list files; a fault for each that is not there."""
        for place in places:
            if place.is_dir():
                names: Iterable[tuple[str | None, Path | str]] = ((None, file) for file in images_below(place))
            elif place.suffix.lower() == ".txt":
                lines = enumerate(text_of(place, LARGEST_PART * 16).split("\n"), start=1)
                names = ((f"line {number} of {place.name}", line.strip()) for number, line in lines if line.strip())
            else:
                message = f"must be a folder or a list file (.txt); got {place.name!r}"
                self.reading.findings.fault(self.description.file, self.split, message)
                continue
            for line, name in names:
                try:
                    if isinstance(name, Path):
                        finder.check_inside(name, f"image of {self.split}")
                        yield _Place(name, None)
                    else:
                        yield _Place(finder.find(name, place, line or ""), line)
                except DataError as fault:
                    self.reading.findings.add(fault)

    def read(self, image: Path, image_id: int, finder: Finder) -> tuple[int, int] | None:
        """Add the boxes of one image, and return its size; None where it has no label file or is damaged."""
        file = next((file for file in label_files(image, self.description.root) if os.path.lexists(file)), None)
        if file is None:
            return None
        self.sources.append(file)
        try:
            size = read_header(image, "", self.reading.limits)[:2]
        except DataError:  # found again when the data set opens it
            return None
        try:
            finder.check_inside(file, "the file")
            text = text_of(file, LARGEST_PART)
        except DataError as fault:
            self.reading.findings.add(fault)
            return size
        for number, line in enumerate(text.split("\n"), start=1):
            words = line.split()
            if not words:
                continue
            try:
                category_id, corners, area = box_of(
                    words, len(self.description.names), self.description.num_keypoints, size
                )
            except UserError as fault:
                self.reading.findings.fault(file, f"line {number}", str(fault))
                continue
            self.boxes.add(len(self.boxes) + 1, image_id - 1, category_id, corners, area=area)
            self.source.append(len(self.sources) - 1)
            self.line.append(number)
        return size


def label_files(image: Path, root: Path) -> list[Path]:
    """Where the label file of an image may lie: in `labels/` for the last `images/` of its path, and beside it."""
    beside = image.with_suffix(".txt")
    folders = list(image.parent.relative_to(root).parts)
    if "images" not in folders:
        return [beside]
    folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return [root.joinpath(*folders, beside.name), beside]


def box_of(
    words: Sequence[str], num_classes: int, num_keypoints: int, size: tuple[int, int]
) -> tuple[int, Corners, float]:
    """Class, corners in pixels and area of one line's words; UserError for anything but a box or a polygon."""
    numbers = _numbers(words)
    shares = numbers[1:]
    if num_keypoints and len(shares) == 4 + num_keypoints:
        shares = shares[:4]
    if len(shares) == 5:
        raise UserError("must be `class cx cy w h`; the sixth number looks like a confidence: are these predictions?")
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        forms = "`class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`"
        raise UserError(f"must be {forms}; got {len(numbers)} numbers")
    if numbers[0] != int(numbers[0]) or not 0 <= numbers[0] < num_classes:
        raise UserError(f"the class must be one of 0..{num_classes - 1}; got {words[0][:32]}")
    if not -TOLERANCE <= min(shares) <= max(shares) <= 1 + TOLERANCE:
        pixels = "; these look like pixels" if min(shares) >= 0 and max(shares) > 2 else ""
        raise UserError(f"must be shares of the image in [0, 1]; got {brief(shares)}{pixels}")
    width, height = size
    if len(shares) == 4:
        x, y, wide, high = shares
        if min(wide, high) < 0:
            raise UserError(f"width and height must not be negative; got {brief(shares)}")
        sides = (x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height
        return int(numbers[0]), sides, UNKNOWN_AREA
    polygon = [share * (height if place % 2 else width) for place, share in enumerate(shares)]
    return int(numbers[0]), *shape_of([polygon], width, height)


def _numbers(words: Sequence[str]) -> list[float]:
    numbers: list[float] = []
    try:
        numbers += map(float, words)
    except ValueError as fault:
        raise UserError(f"must be numbers; got {brief(words[len(numbers)])}") from fault
    for word, number in zip(words, numbers, strict=True):
        if not math.isfinite(number) or "_" in word:
            raise UserError(f"must be finite numbers; got {brief(word)}")
    return numbers
