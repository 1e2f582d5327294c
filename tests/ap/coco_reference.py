"""COCO's own reference: annotations and results of 100 images of val2014, and the figures that cocoapi publishes for them."""

import json
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_convert

from rl_det.types import Detections, Target

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "coco_ap_reference"
PUBLISHED = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)


def reference() -> tuple[list[Detections], list[Target], int]:
    """Detections and targets of each image, and the number of classes."""
    truth = json.loads((REFERENCE / "instances_val2014_100.json").read_text())
    results = json.loads((REFERENCE / "instances_val2014_fakebbox100_results.json").read_text())
    return *from_json(truth, results), len(truth["categories"])


def from_json(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[list[Detections], list[Target]]:
    labels = {category["id"]: label for label, category in enumerate(truth["categories"], 1)}
    detections, targets = [], []
    for image in sorted(truth["images"], key=lambda entry: int(entry["id"])):  # equal scores rank by it
        own = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        hits = [entry for entry in results if entry["image_id"] == image["id"]]

        def boxes(entries: list[dict[str, Any]]) -> torch.Tensor:
            xywh = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4)
            return box_convert(xywh, "xywh", "xyxy").float()

        targets.append(
            Target(
                boxes=boxes(own),
                labels=torch.tensor([labels[entry["category_id"]] for entry in own], dtype=torch.int64),
                area=torch.tensor([float(entry["area"]) for entry in own]),
                iscrowd=torch.tensor([bool(entry["iscrowd"]) for entry in own], dtype=torch.bool),
                image_id=image["id"],
            )
        )
        detections.append(
            Detections(
                boxes=boxes(hits),
                labels=torch.tensor([labels[entry["category_id"]] for entry in hits], dtype=torch.int64),
                scores=torch.tensor([float(entry["score"]) for entry in hits]),
            )
        )
    return detections, targets
