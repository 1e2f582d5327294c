"""pycocotools' twelve figures of a split's detections, for reports."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

from rl_det.ap.data_set import FIGURES
from rl_det.ap.padding import by_image_id
from rl_det.types import Detections, Target


def coco_summary(detections: Sequence[Detections], targets: Sequence[Target], *, num_classes: int) -> dict[str, float]:
    """COCO's box figures in [0, 1], computed by pycocotools; NaN where it returns -1 (no true box of that size).

    Images are identified by their place in the order of `image_id`, so equal image ids do no harm. Raises ValueError if
    the lengths differ.
    """
    check_lengths(detections, targets)
    order = by_image_id(targets)
    detections, targets = [detections[k] for k in order], [targets[k] for k in order]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(targets))],
            "categories": [{"id": label} for label in range(1, num_classes + 1)],
            "annotations": _annotations(targets),
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": _results(detections)}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(FIGURES, evaluation.stats, strict=True)
    }


def check_lengths(detections: Sequence[Detections], targets: Sequence[Target]) -> None:
    """Raise ValueError unless there are detections for every image."""
    if len(detections) != len(targets):
        raise ValueError(
            f"every image needs detections, be they empty; got {len(detections)} for {len(targets)} images"
        )


def _annotations(targets: Sequence[Target]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, target in enumerate(targets):
        boxes = box_convert(target.boxes.double(), "xyxy", "xywh").tolist()
        columns = zip(boxes, target.labels.tolist(), target.area.tolist(), target.iscrowd.tolist(), strict=True)
        for box, label, area, crowd in columns:
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return rows


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """The annotations that `COCO.loadRes` would make; `loadRes` itself refuses an empty list."""
    rows: list[dict[str, Any]] = []
    for image, found in enumerate(detections):
        boxes = box_convert(found["boxes"].double(), "xyxy", "xywh").tolist()
        for box, label, score in zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True):
            rows.append(
                {
                    "id": len(rows) + 1, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3],
                    "score": score, "iscrowd": 0,
                }
            )  # fmt: skip
    return rows
