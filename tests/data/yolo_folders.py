"""What the tests of YOLO's layout share: a folder of three splits, and what is read of one."""

from pathlib import Path
from typing import Any

import yaml
from data.opening import picture, sound, text

from rl_det.data.annotated import AnnotatedImages
from rl_det.data.folder import Opened

BOX = "0 0.5 0.5 0.5 0.5\n"
"""(5, 2.5) to (15, 7.5) in an image of 20 x 10."""


def described(root: Path, **document: Any) -> Path:
    """data.yaml with two classes and three splits, changed; None removes a key."""
    whole = {"train": "images/train", "val": "images/val", "test": "images/test", "names": ["cat", "dog"]} | document
    return text(root / "data.yaml", yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))


def write_splits(root: Path) -> Path:
    """Three splits with two images each, of two boxes, and their data.yaml."""
    for split in ("train", "val", "test"):
        for name in "ab":
            picture(root / "images" / split / f"{name}.png")
            text(root / "labels" / split / f"{name}.txt", BOX + "1 0.5 0.5 1 1\n")
    described(root)
    return root


def good(path: Path, **options: Any) -> Opened:
    """What is read without a fault."""
    return sound(path, "YOLO", **options)


def boxes(images: AnnotatedImages) -> list[Any]:
    return [images.target(index).boxes.tolist() for index in range(len(images))]


def names(images: AnnotatedImages) -> list[str]:
    return [image.file.name for image in images.images]
