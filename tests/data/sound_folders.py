"""A small folder of each layout without a fault, of the same images and boxes: what `damages` damages."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SPLITS = {"train": 2, "val": 1, "test": 1}
BOXES = [(0, (1, 2, 9, 8)), (1, (4, 0, 20, 5)), (0, (0, 0, 20, 10))]
"""Class and corners of each image's objects, in images of 20 x 10."""

Content = dict[str, bytes]
"""The files of a folder."""
Case = tuple[Content, bool]
"""A folder, and whether the change may have made another data set that is fair."""


def encoded(form: str, seed: int) -> bytes:
    """A picture of noise, so that any byte of the file counts."""
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def names() -> Iterator[tuple[str, int, str]]:
    """Split, number and name of each image."""
    for split, count in SPLITS.items():
        for number in range(count):
            yield split, number, f"{split}{number}.png"


IMAGES = {name: encoded("PNG", place) for place, (_, _, name) in enumerate(names())}


def coco_document(split: str) -> dict[str, Any]:
    own = [name for each, _, name in names() if each == split]
    return {
        "info": {"year": 2024},
        "images": [{"id": key, "file_name": name, "width": 20, "height": 10} for key, name in enumerate(own)],
        "annotations": [
            {
                "id": 10 * image + place,
                "image_id": image,
                "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
            for image in range(len(own))
            for place, (label, (left, top, right, bottom)) in enumerate(BOXES)
        ],
        "categories": [
            {"id": 1, "name": "cat", "supercategory": "pet"},
            {"id": 2, "name": "dog", "supercategory": "pet"},
        ],
    }


def coco(train: Any = None) -> Content:
    """COCO's layout; `train` is the document of train.json, or its bytes."""
    documents = {f"{split}.json": json.dumps(coco_document(split)).encode() for split in SPLITS}
    if train is not None:
        documents["train.json"] = train if isinstance(train, bytes) else json.dumps(train).encode()
    return documents | {f"images/{name}": content for name, content in IMAGES.items()}


YAML = {
    "train": "images/train",
    "val": "images/val",
    "test": "images/test",
    "names": ["cat", "dog"],
    "nc": 2,
    "path": ".",
}
LINES = "".join(
    f"{label} {(left + right) / 40} {(top + bottom) / 20} {(right - left) / 20} {(bottom - top) / 10}\n"
    for label, (left, top, right, bottom) in BOXES
)


def yolo(description: bytes | None = None, labels: bytes | None = None) -> Content:
    """YOLO's layout."""
    files = {"data.yaml": yaml.safe_dump(YAML).encode() if description is None else description}
    for split, _, name in names():
        files[f"images/{split}/{name}"] = IMAGES[name]
        files[f"labels/{split}/{Path(name).stem}.txt"] = LINES.encode()
    if labels is not None:
        files["labels/train/train0.txt"] = labels
    return files


def voc_document(name: str) -> str:
    objects = "".join(
        f"<object><name>{('cat', 'dog')[label]}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, (left, top, right, bottom) in BOXES
    )
    sides = "<size><width>20</width><height>10</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{name}</filename>{sides}{objects}</annotation>"


def voc(document: bytes | None = None, list_file: bytes | None = None) -> Content:
    """Pascal VOC's layout."""
    files: Content = {f"JPEGImages/{name}": content for name, content in IMAGES.items()}
    for _, _, name in names():
        files[f"Annotations/{Path(name).stem}.xml"] = voc_document(name).encode()
    for split in SPLITS:
        own = [Path(name).stem for each, _, name in names() if each == split]
        files[f"ImageSets/Main/{split}.txt"] = "\n".join(own).encode()
    if document is not None:
        files["Annotations/train0.xml"] = document
    if list_file is not None:
        files["ImageSets/Main/train.txt"] = list_file
    return files
