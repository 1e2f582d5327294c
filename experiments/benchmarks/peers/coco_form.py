"""Padded batches -> the rows and dictionaries that COCO's evaluators read."""

from typing import Any

import numpy as np
from jaxtyping import Float64
from peers.pseudo_image import PseudoImage, detection_rows, xywh

from rl_det.ap.batch import DetectionBatch, TruthBatch


def image_rows(detections: DetectionBatch) -> Float64[np.ndarray, "M 7"]:
    """A data set's detections in pycocotools' array form; images are numbered from 1."""
    images = np.broadcast_to(np.arange(1, len(detections) + 1)[:, None], detections.mask.shape)
    return detection_rows(detections, detections.mask, images, detections.labels)


def annotations(rows: np.ndarray, area: np.ndarray, iscrowd: np.ndarray) -> list[dict[str, Any]]:
    """True boxes in COCO's form; rows are image, x, y, width, height, (anything), category."""
    columns = zip(
        rows[:, 0].astype(int).tolist(), rows[:, 1:5].tolist(), rows[:, 6].astype(int).tolist(), area.tolist(),
        iscrowd.astype(int).tolist(), strict=True,
    )  # fmt: skip
    return [
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": size, "iscrowd": crowd, "ignore": crowd}
        for i, (image, box, label, size, crowd) in enumerate(columns, 1)
    ]


def results(rows: np.ndarray) -> list[dict[str, Any]]:
    """Detections in COCO's form."""
    columns = zip(
        rows[:, 0].astype(int).tolist(), rows[:, 1:5].tolist(), rows[:, 5].tolist(), rows[:, 6].astype(int).tolist(),
        strict=True,
    )  # fmt: skip
    return [
        {"image_id": image, "bbox": box, "score": score, "category_id": label} for image, box, score, label in columns
    ]


def scene_rows(scene: PseudoImage) -> np.ndarray:
    """The pseudo image's true boxes as rows of image, x, y, width, height, 0, category."""
    ends = np.ones((len(scene.categories), 1)), np.zeros((len(scene.categories), 1))
    return np.concatenate([ends[0], scene.boxes_xywh, ends[1], scene.categories[:, None]], 1)


def truth_rows(truths: TruthBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A data set's true boxes as such rows, and their area and crowd flags."""
    mask = truths.mask
    image = np.nonzero(mask)[0] + 1
    rows = np.column_stack([image, xywh(truths.boxes[mask]), np.zeros(len(image)), truths.labels[mask]])
    return rows, truths.area[mask].astype(np.float64), truths.iscrowd[mask]


def coco_dictionary(num_images: int, num_labels: int, boxes: list[dict[str, Any]]) -> dict[str, Any]:
    """A data set in COCO's form."""
    return {
        "info": {},
        "images": [{"id": image, "width": 640, "height": 640} for image in range(1, num_images + 1)],
        "categories": [{"id": label, "name": str(label)} for label in range(1, num_labels + 1)],
        "annotations": boxes,
    }


def dictionary_of(truths: TruthBatch, num_classes: int) -> dict[str, Any]:
    """A data set's true boxes in COCO's form."""
    return coco_dictionary(len(truths), num_classes, annotations(*truth_rows(truths)))
