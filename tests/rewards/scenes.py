"""A pool of four images with known objects and imperfect detections, and edits of it: what the tests of rewards share.

Objects are squares of 40 pixels, 100 apart, so that no detection of one reaches another. Image 3 has none; class 3 is in
image 2 alone. The first object of each image is missed.
"""

from dataclasses import replace

import numpy as np

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.rewards import Edits, Pool, Reward, reward_named

NUM_IMAGES, NUM_CLASSES, ROOM = 4, 3, 400
SIDE, SPACING, IMAGE_SIDE = 40, 100, 500
LABELS = ((1, 1, 2, 1, 2), (2, 1, 2), (3, 3, 1, 2), ())
OBJECTS = np.array([5, 5, 2])
WITH_OBJECTS = np.array([0, 1, 2])


def make_truths() -> TruthBatch:
    """Image by image, objects in a row of the grid."""
    size = max(map(len, LABELS))
    labels, mask = np.zeros((NUM_IMAGES, size), dtype=np.int64), np.zeros((NUM_IMAGES, size), dtype=bool)
    for image, own in enumerate(LABELS):
        labels[image, : len(own)], mask[image, : len(own)] = own, True
    corner = np.stack(np.meshgrid(SPACING * np.arange(size), SPACING * np.arange(NUM_IMAGES)), -1).astype(float)
    boxes = np.concatenate([corner, corner + SIDE], -1) * mask[..., None]
    area = np.full(labels.shape, float(SIDE**2)) * mask
    return TruthBatch(boxes=boxes, labels=labels, area=area, iscrowd=np.zeros_like(mask), mask=mask)


def make_pool(seed: int = 0, *, displayed_from: float = -np.inf) -> Pool:
    """All objects but each image's first are detected, a little off; in each image are three mistakes, of classes 1 and 2."""
    rng, truths = np.random.default_rng(seed), make_truths()
    found = DetectionBatch(
        boxes=np.zeros((NUM_IMAGES, ROOM, 4), dtype=np.float32),
        labels=np.ones((NUM_IMAGES, ROOM), dtype=np.int64),
        scores=np.zeros((NUM_IMAGES, ROOM)),
        mask=np.zeros((NUM_IMAGES, ROOM), dtype=bool),
    )
    for image, own in enumerate(LABELS):
        detected = truths.boxes[image, 1 : len(own)] + rng.uniform(-3, 3, (max(0, len(own) - 1), 4))
        add(found, image, detected, np.array(own[1:], dtype=np.int64), rng.normal(1, 1, len(detected)))
        corner = SPACING * rng.integers(0, 4, (3, 2)) + 60
        add(found, image, np.concatenate([corner, corner + 30], 1), rng.integers(1, 3, 3), rng.normal(-0.5, 1, 3))
    return Pool(detections=found, truths=truths, num_classes=NUM_CLASSES, displayed_from=displayed_from)


def add(found: DetectionBatch, image: int, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> None:
    """Put more detections into the padding of one image, in place."""
    free = np.flatnonzero(~found.mask[image])[: len(labels)]
    assert len(free) == len(labels), "no room left"
    found.boxes[image, free], found.labels[image, free] = boxes, labels
    found.scores[image, free], found.mask[image, free] = scores, True


def untouched(pool: Pool) -> Edits:
    """Each image as it is."""
    return Edits(pool, np.arange(NUM_IMAGES), copied(pool.detections))


def copied(found: DetectionBatch) -> DetectionBatch:
    """Detections that can be changed in place."""
    return replace(found, **{name: values.copy() for name, values in vars(found).items()})


def named(name: str) -> Reward:
    """By its name, for the pool's own numbers of objects."""
    return reward_named(name, OBJECTS)


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """Of two boxes, slowly."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = float(np.clip(sides, 0, None).prod())
    return shared / float((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - shared)
