"""A random generator and sizes -> images' detections and true boxes: as a detector finds them, and as break evaluators."""

import numpy as np

from rl_det.ap.batch import DetectionBatch, TruthBatch

SIDE = 640.0  # of an image, in pixels
CELL = 8.0  # of the hostile scenes' grid, in pixels


def typical(
    rng: np.random.Generator,
    num_images: int,
    num_classes: int,
    *,
    num_detections: int = 100,
    num_truths: tuple[int, int] = (10, 30),
) -> tuple[DetectionBatch, TruthBatch]:
    """What a fair detector makes of ordinary images: half of the detections lie near a true box, mostly with its label."""
    counts = rng.integers(num_truths[0], num_truths[1] + 1, num_images)
    shape = (num_images, num_truths[1])
    true_boxes = _boxes(rng, shape)
    true_labels = rng.integers(1, num_classes + 1, shape)

    found = (num_images, num_detections)
    image = np.arange(num_images)[:, None]
    source = rng.integers(0, 1 << 30, found) % counts[:, None]
    near = rng.uniform(size=found) < 0.5
    sides = true_boxes[..., 2:] - true_boxes[..., :2]
    jitter = rng.normal(0, 0.08, (*found, 4)) * np.tile(sides[image, source], 2)
    boxes = np.where(near[..., None], true_boxes[image, source] + jitter, _boxes(rng, found)).astype(np.float32)
    labels = rng.integers(1, num_classes + 1, found)
    labels = np.where(near & (rng.uniform(size=found) < 0.8), true_labels[image, source], labels)
    scores = rng.uniform(size=found) * 0.5 + near * 0.5 * rng.uniform(size=found)
    detections = DetectionBatch(
        boxes=np.concatenate(
            [np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])], -1
        ),
        labels=labels,
        scores=scores.astype(np.float32),
        mask=np.ones(found, dtype=bool),
    )
    truths = TruthBatch(
        boxes=true_boxes,
        labels=true_labels,
        area=np.prod(sides, -1),
        iscrowd=np.zeros(shape, dtype=bool),
        mask=np.arange(shape[1]) < counts[:, None],
    )
    return detections, truths


def hostile(
    rng: np.random.Generator, num_images: int, num_classes: int, *, crowded: bool | None = None
) -> tuple[DetectionBatch, TruthBatch]:
    """Images where an evaluator goes wrong if it can.

    Boxes on an integer grid and a handful of scores, so that both tie (and xywh is xyxy to the last bit); 40 to 90 % crowds;
    true areas that disagree with the boxes, and some out of COCO's range altogether; images without true boxes, without
    detections; classes that are absent; more than 100 detections of one class, in some images of a `crowded` batch. Left
    out, one batch of four is crowded.
    """
    crowded = rng.uniform() < 0.25 if crowded is None else crowded
    most = 180 if crowded else 30
    counts = rng.integers(0, 31, num_images)
    counts[rng.uniform(size=num_images) < 0.125] = most
    counts[rng.uniform(size=num_images) < 0.05] = 0
    true_counts = rng.integers(0, 13, num_images) * (rng.uniform(size=num_images) > 0.05)
    found, true = (num_images, most), (num_images, 12)
    present = rng.integers(1, num_classes + 1, num_images)[:, None]  # labels above it are absent from that image

    true_boxes = _grid_boxes(rng, true)
    boxes = _grid_boxes(rng, found)
    source = rng.integers(0, 12, found)
    copied = rng.uniform(size=found) < 0.4
    boxes = np.where(copied[..., None], true_boxes[np.arange(num_images)[:, None], source], boxes)
    area = np.prod(true_boxes[..., 2:] - true_boxes[..., :2], -1)
    wrong = rng.choice(np.array([1.0, 0.0, 500.0, 1024.0, 9216.0, 2e10]), true, p=[0.7, 0.04, 0.1, 0.06, 0.05, 0.05])
    detections = DetectionBatch(
        boxes=boxes.astype(np.float32),
        labels=1 + rng.integers(0, 1 << 30, found) % present,
        scores=(rng.integers(1, 8, found) / 8).astype(np.float32),
        mask=np.arange(most) < counts[:, None],
    )
    truths = TruthBatch(
        boxes=true_boxes.astype(np.float32),
        labels=rng.integers(1, num_classes + 1, true),
        area=np.where(wrong == 1.0, area, wrong),
        iscrowd=rng.uniform(size=true) < rng.uniform(0.4, 0.9),
        mask=np.arange(12) < true_counts[:, None],
    )
    return detections, truths


def _boxes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    corner = rng.uniform(0, 0.8 * SIDE, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(16, 0.3 * SIDE, (*shape, 2))], -1).astype(np.float32)


def _grid_boxes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    corner = rng.integers(0, 5, (*shape, 2))
    return CELL * np.concatenate([corner, corner + rng.integers(1, 5, (*shape, 2))], -1)
