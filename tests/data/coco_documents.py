"""Small data sets in the layouts that programs leave COCO's files in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rl_det.data.splits import Splits

Document = dict[str, Any]
CATEGORIES = [{"id": 1, "name": "ripe"}, {"id": 2, "name": "unripe"}]
NUM_IMAGES = {"train": 5, "val": 4, "test": 3}


def document(split: str, names: Callable[[str], str] = str) -> Document:
    """As many images as the split has, with two boxes each."""
    images, annotations = [], []
    for k in range(1, NUM_IMAGES[split] + 1):
        images.append({"id": k, "file_name": names(f"{split}{k}.png"), "width": 30, "height": 20})
        for label in (1, 2):
            box = [k, 2 * label, 8 + label, 6]
            annotations.append({"id": len(annotations), "image_id": k, "category_id": label, "bbox": box})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def write(root: Path, split: str, file: str, folder: str, told: Document | None = None) -> None:
    """The split's JSON at `file`, its pictures in `folder`; every picture is another one."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(told or document(split)))
    for k in range(1, NUM_IMAGES[split] + 1):
        Image.new("RGB", (30, 20), (k, len(split), ord(split[1]))).save(root / folder / f"{split}{k}.png")


LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "of this project": {split: (f"{split}.json", "images") for split in NUM_IMAGES},
    "COCO's own": {split: (f"annotations/instances_{split}2017.json", f"{split}2017") for split in NUM_IMAGES},
    "COCO's own under images": {
        split: (f"annotations/instances_{split}2017.json", f"images/{split}2017") for split in NUM_IMAGES
    },
    "Roboflow's": {split: (f"{there}/_annotations.coco.json", there) for split, there in
                   (("train", "train"), ("val", "valid"), ("test", "test"))},
    "annotations of splits": {split: (f"annotations/{split}.json", f"images/{split}") for split in NUM_IMAGES},
}  # fmt: skip


def same(one: Splits, other: Splits) -> None:
    for split in ("train", "val", "test"):
        ours, theirs = one[split], other[split]
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            for field in ("boxes", "labels", "area", "iscrowd"):
                assert torch.equal(getattr(ours[index].target, field), getattr(theirs[index].target, field))
            assert ours[index].target.image_id == theirs[index].target.image_id
            assert torch.equal(ours[index].image, theirs[index].image)
    assert one.category_ids == other.category_ids
    assert one.classes == other.classes
