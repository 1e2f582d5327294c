"""Hostile scenes -> coco_scenes.json: the scenes, and what pycocotools makes of them, image by image and as one data set.

    PYTHONPATH=tests python tests/golden/make_coco_scenes.py

Each image is evaluated in a COCOeval of its own, and for leave-one-out again without each of its detections: slow and
obvious. Run it again only when the scenes change; what it was made with is in the file.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ap.hostile import NUM_CLASSES, hostile
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FILE = Path(__file__).with_name("coco_scenes.json")
Entries = list[dict[str, Any]]


def entries(batch: Any, numbers: dict[str, np.ndarray]) -> Entries:
    """COCO's annotations or results; an entry knows its place in the batch."""
    found = []
    for image, index in zip(*(axis.tolist() for axis in np.nonzero(batch.mask)), strict=True):
        x1, y1, x2, y2 = batch.boxes[image, index].tolist()
        entry = {
            "image_id": image,
            "category_id": batch.labels[image, index].item(),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        entry |= {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "place": index}
        found.append(entry | {name: values[image, index].item() for name, values in numbers.items()})
    return found


def evaluated(images: Sequence[int], truths: Entries, detections: Entries) -> COCOeval:
    """By pycocotools, with its defaults, twelve figures and all."""
    parts = []
    for boxes in (truths, detections):
        part = COCO()
        part.dataset = {
            "images": [{"id": image} for image in images],
            "categories": [{"id": label} for label in range(1, NUM_CLASSES + 1)],
            "annotations": [{**box, "id": number} for number, box in enumerate(boxes, 1)],
        }
        part.createIndex()
        parts.append(part)
    evaluation = COCOeval(*parts, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def ap_of(image: int, truths: Entries, detections: Entries) -> float | None:
    """pycocotools' AP of an image by itself; None where it says -1."""
    own = [[box for box in boxes if box["image_id"] == image] for boxes in (truths, detections)]
    ap = float(evaluated([image], *own).stats[0])
    return None if ap < 0 else ap


def scene(seed: int, crowds: tuple[float, float], num_detections: int) -> dict[str, Any]:
    """Six images and what they are worth."""
    d, t = hostile(seed, num_images=6, num_detections=num_detections, crowds=crowds)
    truths, detections = entries(t, {"area": t.area, "iscrowd": t.iscrowd.astype(int)}), entries(d, {"score": d.scores})
    aps = [ap_of(image, truths, detections) for image in range(6)]
    worth = np.zeros(d.mask.shape)
    for gone in detections:
        image = gone["image_id"]
        without = ap_of(image, truths, [box for box in detections if box is not gone])
        worth[image, gone["place"]] = 0.0 if aps[image] is None else aps[image] - without  # type: ignore[operator]
    figures = [None if figure < 0 else float(figure) for figure in evaluated(range(6), truths, detections).stats]
    return {
        "detections": {name: values.tolist() for name, values in vars(d).items()},
        "truths": {name: values.tolist() for name, values in vars(t).items()},
        "figures": figures, "image_ap": aps, "worth": worth.tolist(),
    }  # fmt: skip


def main() -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        scenes = [scene(1, (0.0, 0.2), 16), scene(2, (0.4, 0.9), 16), scene(3, (0.0, 0.1), 40)]
    made_with = {name: version(name) for name in ("pycocotools", "numpy")}
    FILE.write_text(json.dumps({"made_with": made_with, "num_classes": NUM_CLASSES, "scenes": scenes}) + "\n")


if __name__ == "__main__":
    main()
