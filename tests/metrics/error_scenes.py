"""Random images with every kind of error: boxes near true ones, of their class or another, and boxes elsewhere."""

import numpy as np

from rl_det.ap.batch import DetectionBatch, TruthBatch

NUM_CLASSES = 3


def error_scenes(
    seed: int, *, num_images: int = 12, num_detections: int = 30, num_truths: int = 6, crowds: float = 0.0
) -> tuple[DetectionBatch, TruthBatch]:
    """Scores without ties; `crowds` is the share of true boxes that are crowds."""
    rng = np.random.default_rng(seed)
    shape, true_shape = (num_images, num_detections), (num_images, num_truths)
    corners = rng.uniform(0, 60, (*true_shape, 2))
    true_boxes = np.concatenate([corners, corners + rng.uniform(10, 30, (*true_shape, 2))], -1)
    true_labels = rng.integers(1, NUM_CLASSES + 1, true_shape)
    near = rng.integers(0, num_truths, shape)
    boxes = np.take_along_axis(true_boxes, near[..., None], 1) + rng.normal(0, 5, (*shape, 4))
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    guesses = rng.integers(1, NUM_CLASSES + 1, shape)
    labels = np.where(rng.random(shape) < 0.7, np.take_along_axis(true_labels, near, 1), guesses)
    return (
        DetectionBatch(boxes=boxes, labels=labels, scores=rng.random(shape), mask=rng.random(shape) < 0.9),
        TruthBatch(
            boxes=true_boxes, labels=true_labels, area=np.full(true_shape, 400.0),
            iscrowd=rng.random(true_shape) < crowds, mask=rng.random(true_shape) < 0.8,
        ),
    )  # fmt: skip
