"""Random images that bring out every corner of COCO's rules, and what pycocotools says of them."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.options import CocoOptions

NUM_CLASSES = 4


def hostile(
    seed: int,
    *,
    num_images: int = 8,
    num_detections: int = 24,
    num_truths: int = 8,
    crowds: tuple[float, float] = (0.0, 0.9),
) -> tuple[DetectionBatch, TruthBatch]:
    """Ties in score and in IoU, crowds, areas that are not the boxes', empty images, absent classes, holes in the masks."""
    rng = np.random.default_rng(seed)
    truth_shape, shape = (num_images, num_truths), (num_images, num_detections)
    corner = rng.integers(0, 40, (*truth_shape, 2))
    true_boxes = np.concatenate([corner, corner + rng.integers(4, 30, (*truth_shape, 2))], -1)
    true_labels = rng.integers(1, NUM_CLASSES, truth_shape)  # the last class is nowhere
    near = rng.integers(0, max(num_truths, 1), shape)
    noise = rng.integers(0, 40, (*shape, 2))
    elsewhere = np.concatenate([noise, noise + rng.integers(0, 30, (*shape, 2))], -1)
    boxes, labels = elsewhere, rng.integers(1, NUM_CLASSES + 1, shape)
    if num_truths:
        image = np.arange(num_images)[:, None]
        jittered = true_boxes[image, near] + rng.integers(0, 3, (*shape, 4))
        boxes = np.where(rng.uniform(size=(*shape, 1)) < 0.7, jittered, elsewhere)
        labels = np.where(rng.uniform(size=shape) < 0.7, true_labels[image, near], labels)
    filled = rng.uniform(size=(num_images, 1))
    return (
        DetectionBatch(
            boxes=boxes.astype(np.float32), labels=labels, scores=rng.integers(0, 12, shape) / 8.0,
            mask=rng.uniform(size=shape) < np.where(rng.uniform(size=(num_images, 1)) < 0.1, 0.0, 0.9),
        ),
        TruthBatch(
            boxes=true_boxes.astype(np.float32), labels=true_labels,
            area=rng.choice([50.0, 400.0, 5000.0, 20000.0], truth_shape),
            iscrowd=rng.uniform(size=truth_shape) < rng.uniform(*crowds), mask=rng.uniform(size=truth_shape) < filled,
        ),
    )  # fmt: skip


def pycocotools_evaluation(
    detections: DetectionBatch,
    truths: TruthBatch,
    options: CocoOptions,
    *,
    alone: bool = False,
    area_ranges: dict[str, tuple[float, float]] | None = None,
    max_detections: tuple[int, ...] = (),
    num_classes: int = NUM_CLASSES,
) -> COCOeval:
    """COCOeval, evaluated and accumulated. `alone`: each image by itself, its class c as category image * num_classes + c."""
    images = np.arange(len(truths))
    shown = [0] if alone else images.tolist()
    categories = range(1, (len(truths) if alone else 1) * num_classes + 1)

    def rows(batch: Any, extra: dict[str, Any]) -> list[dict[str, Any]]:
        entries = []
        for image, index in zip(*np.nonzero(batch.mask), strict=True):
            x1, y1, x2, y2 = batch.boxes[image, index].astype(np.float64).tolist()
            label = int(batch.labels[image, index])
            entries.append(
                {
                    "id": len(entries) + 1, "image_id": 0 if alone else int(image),
                    "category_id": int(image) * num_classes + label if alone else label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0,
                    **{name: values[image, index].item() for name, values in extra.items()},
                }
            )  # fmt: skip
        return entries

    truth, found = COCO(), COCO()
    common = {"images": [{"id": image} for image in shown], "categories": [{"id": label} for label in categories]}
    truth.dataset = {
        **common,
        "annotations": rows(truths, {"area": truths.area, "iscrowd": truths.iscrowd.astype(int)}),
    }
    found.dataset = {**common, "annotations": rows(detections, {"score": detections.scores})}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        parameters = evaluation.params
        parameters.iouThrs, parameters.recThrs = np.array(options.iou_thresholds), np.array(options.recall_points)
        ranges = area_ranges or {"all": options.area_range}
        parameters.areaRng, parameters.areaRngLbl = [list(r) for r in ranges.values()], list(ranges)
        parameters.maxDets = list(max_detections or (options.max_detections,))
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def pycocotools_image_class_ap(
    detections: DetectionBatch, truths: TruthBatch, options: CocoOptions, num_classes: int = NUM_CLASSES
) -> np.ndarray:
    """[B, C]; NaN where an image has no true box of the class that counts."""
    evaluation = pycocotools_evaluation(detections, truths, options, alone=True, num_classes=num_classes)
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # thresholds, recall points, categories
    ap = np.where(precision[0, 0] < 0, np.nan, precision.mean((0, 1)))
    return np.asarray(ap).reshape(len(truths), num_classes)
