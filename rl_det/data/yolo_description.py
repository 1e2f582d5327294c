"""What says where the splits of a YOLO data set are, and how its classes are called.

* `data.yaml` names the classes and the places of train, val and test, as in Ultralytics' and Roboflow's data sets
  (https://docs.ultralytics.com/datasets/detect; the loader is ultralytics/data/utils.py: check_det_dataset). Any other YAML
  file in the folder with `names` and a split counts too.
* `classes.txt` names the classes, a line each: beside `images/` and `labels/`, as Label Studio exports them, or beside the
  images and their text files themselves, as LabelImg writes them.
* `obj.names` does so beside the lists `train.txt` and `valid.txt`, or the folders `obj_train_data/` and `obj_valid_data/`
  with images and text files: CVAT's "YOLO 1.1", which is Darknet's.
"""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rl_det.data import Split
from rl_det.data.check import DataError, brief
from rl_det.data.coco import split_of
from rl_det.data.files import images_below, inside, parts_of, read_file
from rl_det.data.listing import Reading

YAML_SUFFIXES = (".yaml", ".yml")
CLASSES = "classes.txt"
LARGEST_YAML = 2**20
"""The largest YAML file that is read, in bytes: PyYAML takes seconds for it."""
SPLIT_KEYS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}


class Description(NamedTuple):
    """What a data set's YAML file says."""

    file: Path
    root: Path
    names: dict[int, str]
    places: dict[Split, list[Path]]
    """The folders and list files of each split."""
    num_keypoints: int = 0
    """How many numbers follow each box."""


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
    return _of_classes(path) or _of_pairs(path) or _of_darknet(path)


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


def _of_classes(path: Path) -> Description | None:
    """Images in `images/`, or in its subfolders train, val and test, with class names in a text file."""
    images, labels = path / "images", path / "labels"
    if not (images.is_dir() and labels.is_dir()):
        return None
    file = next((each for each in (path / CLASSES, labels / CLASSES) if each.is_file()), None)
    if file is None:
        if next(labels.rglob("*.txt"), None) is None:
            return None
        raise DataError(
            path / "data.yaml", "the file", "there is none, nor a classes.txt, that names the classes of labels/"
        )
    places = _split_folders(images, path) or {"train": [images]}
    return Description(file=file, root=path, names=_names_in(file), places=places)


def _of_pairs(path: Path) -> Description | None:
    """Images with text files beside them in the folder of LabelImg's `classes.txt`, or in its subfolders train, val, test."""
    file = path / CLASSES
    images = images_below(path) if file.is_file() else []
    parents = {image.parent for image in images if image.with_suffix(".txt").is_file()}
    if not parents:
        return None
    places = {} if path in parents else _split_folders(path, path)
    return Description(file=file, root=path, names=_names_in(file), places=places or {"train": [path]})


def _of_darknet(path: Path) -> Description | None:
    """Lists of images, or folders with images and text files, beside Darknet's `obj.names`."""
    file = path / "obj.names"
    if not file.is_file():
        return None
    places: dict[Split, list[Path]] = {}
    for split, keys in SPLIT_KEYS.items():
        told = (name for key in keys for name in (f"{key}.txt", f"obj_{key}_data"))
        if found := next((found for name in told if (found := inside(path, path / name))), None):
            places[split] = [found]
    if not places:
        raise DataError(
            file, "the file", "must have train.txt, a list of images, or obj_train_data/ beside it; there is neither"
        )
    return Description(file=file, root=path, names=_names_in(file), places=places)


def _split_folders(folder: Path, root: Path) -> dict[Split, list[Path]]:
    """The subfolders whose names say a split."""
    places: dict[Split, list[Path]] = {}
    for each in sorted(each for each in folder.iterdir() if each.is_dir()):
        if (split := split_of(each.name)) and (found := inside(root, each)):
            places.setdefault(split, []).append(found)
    return places


def _names_in(file: Path) -> dict[int, str]:
    """The names in a text file, a line each, by their numbers from 0."""
    names = [line.strip() for line in text_of(file, LARGEST_YAML).split("\n")]
    while names and not names[-1]:
        del names[-1]
    if not all(names) or not names:
        raise DataError(file, f"line {names.index('') + 1 if names else 1}", "must name a class; it is empty")
    return dict(enumerate(names))


def text_of(file: Path, largest: int) -> str:
    """The text in a file of at most so many bytes; DataError for anything else."""
    try:
        return read_file(file, largest=largest).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(file, "the file", f"not text in UTF-8 ({fault.reason} at byte {fault.start})") from fault
