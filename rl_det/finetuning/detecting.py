"""Run a detector on image files; write pictures with boxes, and the detections as COCO results JSON."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from rl_det.data.images import ImageLimits, read_header, read_image
from rl_det.errors import UserError
from rl_det.report.detections import drawn
from rl_det.storage.files import as_json, check_writable, write_whole, write_with
from rl_det.types import Detections

RESULTS = "detections.json"
IMAGES_AT_A_TIME = 16
ENTRIES = {"image_id", "category_id", "bbox", "score"}
"""What an entry of COCO's results holds."""
SIGNATURE = "Software", "rl_det"
"""The entry of a PNG that says that `detect` has written it."""


def draw_and_write(
    detect: Callable[[Iterable[Float[Tensor, "3 _ _"]]], list[Detections]],
    classes: Sequence[str],
    category_ids: Sequence[int],
    pictures: Mapping[Path, Path],
    folder: Path,
    threshold: float,
    *,
    image_ids: Mapping[Path, Sequence[int]] | None = None,
    limits: ImageLimits | None = None,
    on_image: Callable[[], object] = lambda: None,
) -> Path:
    """Write one picture for each image, and `detections.json`; return the JSON's path. `on_image` is called after each image.

    The JSON is COCO's results: boxes x, y, width, height in the image's pixels, the data set's category ids, and as `image_id`
    the data set's (`image_ids`, one or several of a file), or without one the image's name (`names_of`). `pictures` says where
    each image's picture is written.
    """
    files = list(pictures)
    names = names_of(files)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for start in range(0, len(files), IMAGES_AT_A_TIME):
        batch = files[start : start + IMAGES_AT_A_TIME]
        images = [read_image(file, "the image", limits) for file in batch]
        for file, image, own in zip(batch, images, detect(images), strict=True):
            picture = drawn(image, own, classes, threshold)
            pictures[file].parent.mkdir(parents=True, exist_ok=True)
            write_with(pictures[file], partial(picture.save, format="PNG", pnginfo=_signed()))
            for image_id in [names[file]] if image_ids is None else image_ids[file]:
                rows += coco_rows(image_id, own, category_ids)
            on_image()
    write_whole(folder / RESULTS, as_json(rows))
    return folder / RESULTS


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the image files in the given folders, by name, each once, without hidden ones; else ValueError."""
    known = Image.registered_extensions()
    found: list[Path] = []
    for path in paths:
        below = path.iterdir() if path.is_dir() else ()
        own = sorted(file for file in below if file.suffix.lower() in known and not file.name.startswith("."))
        own = own if path.is_dir() else [path]
        if not own:
            raise UserError(f"{path}: must hold image files; there is none")
        found += own
    if not found:
        raise UserError("detect needs an image at least")
    return list({os.path.abspath(file): file for file in reversed(found)}.values())[::-1]  # each once


def names_of(files: Sequence[Path]) -> dict[Path, str]:
    """What each image is called: as its file; if two of them have one name, by its path below the folder that all share."""
    if len({file.name for file in files}) == len(files):
        return {file: file.name for file in files}
    paths = {file: Path(os.path.abspath(file)) for file in files}  # as it is written: a link is not what it points to
    shared = os.path.commonpath([path.parent for path in paths.values()])
    return {file: path.relative_to(shared).as_posix() for file, path in paths.items()}


def pictures_of(files: Sequence[Path], folder: Path, limits: ImageLimits | None = None) -> dict[Path, Path]:
    """Where in a folder each image's picture is to be written; nothing is written yet.

    ValueError names an image that is none, whose picture would be another's, or a file that is there and not ours: a picture
    without our signature, a `detections.json` that is no list of detections. It names a folder that cannot be written to.
    """
    check_writable(folder)
    _check_ours(folder / RESULTS, _is_list_of_detections)
    pictures: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for file, name in names_of(files).items():
        picture = (folder / name).with_suffix(".png")
        if (other := taken.setdefault(picture, file)) != file:
            raise UserError(
                f"{file}: its picture would be that of {other}, as pictures have the images' names; rename one"
            )
        if picture.resolve() == file.resolve():
            raise UserError(f"{file}: its picture would overwrite the image; give another folder (--out)")
        _check_ours(picture, _is_signed)
        read_header(file, "the image", limits)
        pictures[file] = picture
    return pictures


def _check_ours(file: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raise UserError for a file that would be written over, and that is not ours."""
    if file.exists() and not is_ours(file):
        raise UserError(f"{file}: is there, and no earlier `detect` has written it; give another folder (--out)")


def _signed() -> PngInfo:
    """What a picture says of its origin."""
    signature = PngInfo()
    signature.add_text(*SIGNATURE)
    return signature


def _is_signed(file: Path) -> bool:
    name, value = SIGNATURE
    try:
        with Image.open(file) as picture:
            return picture.info.get(name) == value
    except (OSError, ValueError, SyntaxError):
        return False


def _is_list_of_detections(file: Path) -> bool:
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, list) and all(isinstance(row, dict) and row.keys() == ENTRIES for row in told)


def coco_rows(image_id: str | int, found: Detections, category_ids: Sequence[int]) -> list[dict[str, object]]:
    """One image's detections as entries of COCO's results format."""
    corners = found["boxes"]
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    return [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
