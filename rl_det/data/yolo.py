"""Read YOLO's labels: one text file an image, beside it or in `labels/` where the image is in `images/`.

* `data.yaml` names the classes and the places of train, val and test, as in Ultralytics' and Roboflow's data sets
  (https://docs.ultralytics.com/datasets/detect; the loader is ultralytics/data/utils.py: check_det_dataset,
  img2label_paths, verify_image_label). Any other YAML file in the folder with `names` and a split counts too.
* `classes.txt` names the classes, a line each, beside `images/` and `labels/`: the export of Label Studio.

A line is `class cx cy w h`, in shares of the upright image. `class x1 y1 x2 y2 x3 y3 ...` is a polygon
(https://docs.ultralytics.com/datasets/segment; an oriented box has four points): it becomes the box around it with the
polygon's area. If the YAML has `kpt_shape`, a box's line goes on with its keypoints, which are not read. An image without
a label file has no objects. Category ids are the class numbers from 0; images are numbered from 1 by their sorted paths.
"""

import math
import os
from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rl_det.data import Split
from rl_det.data.check import Corners, DataError, brief
from rl_det.data.coco import shape_of, split_of
from rl_det.data.files import LARGEST_PART, Finder, images_below, inside, parts_of, read_file
from rl_det.data.images import read_header
from rl_det.data.listing import UNKNOWN_AREA, ListedBoxes, ListedImage, Listing, Reading
from rl_det.errors import UserError

YAML_SUFFIXES = (".yaml", ".yml")
LARGEST_YAML = 2**20
"""The largest YAML file that is read, in bytes: PyYAML takes seconds for it."""
SPLIT_KEYS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
TOLERANCE = 0.01
"""How far a share may lie outside [0, 1]: Ultralytics' own tolerance."""


class Description(NamedTuple):
    """What a data set's YAML file says."""

    file: Path
    root: Path
    names: dict[int, str]
    places: dict[Split, list[Path]]
    """The folders and list files of each split."""
    num_keypoints: int = 0
    """How many numbers follow each box."""


def read_yolo(path: Path, reading: Reading) -> dict[Split, Listing] | None:
    """The splits of a folder, or of one YAML file. None: there is neither a YAML file of YOLO's nor a `classes.txt`."""
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


def described(path: Path, reading: Reading) -> Description | None:
    """What says where the splits are and how the classes are called; None if nothing does."""
    if path.is_file():
        return _of_yaml(path, read_yaml(path), reading) if path.suffix.lower() in YAML_SUFFIXES else None
    files = [file for file in path.glob("*") if file.suffix.lower() in YAML_SUFFIXES]
    broken = None
    for file in sorted(files, key=lambda file: (file.stem != "data", file.name)):
        try:
            document = read_yaml(file)
        except DataError as fault:
            broken = broken or fault
            continue
        if isinstance(document, dict) and "names" in document and any(key in document for key in _all_keys()):
            return _of_yaml(file, document, reading)
    if broken is not None and (broken.args[0].stem == "data" or (path / "labels").is_dir()):
        raise broken
    return _of_classes(path, reading)


def _all_keys() -> list[str]:
    return [key for keys in SPLIT_KEYS.values() for key in keys]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without merges, by which a few lines could fill the memory, and with each key once."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merges (<<) are not read", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key comes twice", node.start_mark)
        return mapping


def read_yaml(path: Path) -> Any:
    """The YAML document in a file; DataError if there is none."""
    content = read_file(path, largest=LARGEST_YAML)
    try:
        return yaml.load(content, _Loader)
    except RecursionError as fault:
        raise DataError(path, "the file", "not YAML that can be read (nested too deeply)") from fault
    except Exception as fault:  # PyYAML's constructors raise nearly anything at odd values
        raise DataError(path, "the file", f"not YAML that can be read ({' '.join(str(fault).split())})") from fault


def _of_yaml(file: Path, document: Any, reading: Reading) -> Description:
    root = file.parent
    if not (isinstance(document, dict) and "names" in document and any(key in document for key in _all_keys())):
        raise DataError(file, "the file", "not YOLO's: must have `names`, and one of `train`, `val` and `test`")
    names = class_names(document, file)
    base = root
    if isinstance(told := document.get("path"), str) and (own := inside(root, root / told)) and own.is_dir():
        base = own
    places: dict[Split, list[Path]] = {}
    for split, keys in SPLIT_KEYS.items():
        key = next((key for key in keys if document.get(key)), None)
        if key is None:
            continue
        for told in _listed(document[key], file, key):
            found = located(told, base, root)
            if found is not None:
                places.setdefault(split, []).append(found)
                _warn_of_another(told, found, file, key, root, reading)
            elif split == "test":  # Roboflow names it even if it has no image
                reading.findings.warn(f"{file}: test: there is no {told!r}, so it is taken from another split")
            else:
                reading.findings.fault(file, key, f"there is no {told!r} in {base}; nothing outside {root} is read")
    return Description(
        file=file, root=root, names=names, places=places, num_keypoints=_num_keypoints(document.get("kpt_shape"), file)
    )


def _listed(value: Any, file: Path, key: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) and each for each in values):
        raise DataError(file, key, f"must be a folder, a list file (.txt) or a list of these; got {brief(value)}")
    return list(values)


def _num_keypoints(shape: Any, file: Path) -> int:
    if shape is None:
        return 0
    if not (
        isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and 0 < side < 10**6 for side in shape)
    ):
        raise DataError(file, "kpt_shape", f"must be two counts [keypoints, numbers of each]; got {brief(shape)}")
    return int(shape[0] * shape[1])


def class_names(document: Mapping[str, Any], file: Path) -> dict[int, str]:
    """The names of the classes by their numbers from 0; DataError unless they count from 0 without a gap."""
    told, nc = document.get("names"), document.get("nc")
    if isinstance(told, list):
        told = dict(enumerate(told))
    if not isinstance(told, dict) or not told:
        raise DataError(file, "names", f"must be a list of class names, or a mapping from 0, 1, ...; got {brief(told)}")
    names: dict[int, str] = {}
    for key, name in told.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 9 else key
        if type(number) is not int or not 0 <= number < len(told) or number in names:
            raise DataError(file, "names", f"must count the classes 0..{len(told) - 1}; got the key {brief(key)}")
        if type(name) not in (str, int, float) or name == "":
            raise DataError(file, f"names[{number}]", f"must be text; got {brief(name)} (put it into quotes)")
        names[number] = str(name)
    if nc is not None and (type(nc) is not int or nc != len(names)):
        raise DataError(file, "nc", f"must be the number of names, {len(names)}; got {brief(nc)}")
    return dict(sorted(names.items()))


def located(told: str, base: Path, root: Path) -> Path | None:
    """The folder or file of this name below `root`, without its links; None if there is none.

    Leading `..` is dropped, as in Ultralytics' loader: Roboflow writes `../train/images` into a file beside `train/`. Of
    an absolute path that does not exist, leading folders are dropped: it is from another machine.
    """
    if found := inside(root, base / told):
        return found
    parts = parts_of(told)
    while parts and parts[0] == "..":
        del parts[0]
    absolute = told.startswith(("/", "\\")) or told[1:2] == ":"
    for dropped in range(len(parts) if absolute else min(1, len(parts))):
        for folder in dict.fromkeys((base, root)):
            if ".." not in parts and (found := inside(root, folder.joinpath(*parts[dropped:]))):
                return found
    return None


def _warn_of_another(told: str, found: Path, file: Path, key: str, root: Path, reading: Reading) -> None:
    """Warn if an absolute path stands for another one."""
    if told.startswith(("/", "\\")) and inside(root, Path(told)) is None:
        reading.findings.warn(f"{file}: {key}: {told!r} is not there; {str(found.relative_to(root))!r} is taken for it")


def _of_classes(path: Path, reading: Reading) -> Description | None:
    """Images in `images/`, or in its subfolders train, val and test, with class names in a text file."""
    images, labels = path / "images", path / "labels"
    if not (images.is_dir() and labels.is_dir()):
        return None
    file = next((each for each in (path / "classes.txt", labels / "classes.txt") if each.is_file()), None)
    if file is None:
        if next(labels.rglob("*.txt"), None) is None:
            return None
        raise DataError(
            path / "data.yaml", "the file", "there is none, nor a classes.txt, that names the classes of labels/"
        )
    names = [line.strip() for line in _text(file, LARGEST_YAML).split("\n")]
    while names and not names[-1]:
        del names[-1]
    if not all(names) or not names:
        raise DataError(file, f"line {names.index('') + 1 if names else 1}", "must name a class; it is empty")
    places: dict[Split, list[Path]] = {}
    for folder in sorted(each for each in images.iterdir() if each.is_dir()):
        if (split := split_of(folder.name)) and (found := inside(path, folder)):
            places.setdefault(split, []).append(found)
    return Description(file=file, root=path, names=dict(enumerate(names)), places=places or {"train": [images]})


def _text(file: Path, largest: int) -> str:
    try:
        return read_file(file, largest=largest).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(file, "the file", f"not text in UTF-8 ({fault.reason} at byte {fault.start})") from fault


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
                lines = enumerate(_text(place, LARGEST_PART * 16).split("\n"), start=1)
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
            text = _text(file, LARGEST_PART)
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
