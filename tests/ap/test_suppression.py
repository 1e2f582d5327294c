"""Hard NMS against a slow one of lists and against torchvision's, with ties, absent candidates and images without any."""

import numpy as np
import pytest
import torch
from ap.hostile import hostile
from torchvision.ops import batched_nms

from rl_det.ap.relations import relations
from rl_det.ap.suppression import hard_nms, suppress


def slow_iou(box: np.ndarray, other: np.ndarray) -> np.float32:
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = np.prod(np.maximum(sides, 0), dtype=np.float32)
    union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared
    return shared / union if union > 0 else np.float32(0)


def slow_nms(
    boxes: np.ndarray, labels: np.ndarray, present: np.ndarray, scores: np.ndarray, nms_iou: float
) -> list[int]:
    """By falling score, those that overlap no survivor of their class by more than `nms_iou`."""
    survivors: list[int] = []
    for i in sorted(np.flatnonzero(present), key=lambda i: (-scores[i], i)):
        if all(labels[i] != labels[j] or slow_iou(boxes[i], boxes[j]) <= nms_iou for j in survivors):
            survivors.append(int(i))
    return survivors


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_hard_nms_keeps_whom_no_better_survivor_of_the_class_overlaps(seed: int, nms_iou: float) -> None:
    d, _ = hostile(seed)
    scores = np.where(np.random.default_rng(seed).uniform(size=d.scores.shape) < 0.1, -np.inf, d.scores)
    kept = hard_nms(d.boxes, d.labels, d.mask, scores, nms_iou)
    for row in range(len(d)):
        present = d.mask[row] & (scores[row] > -np.inf)
        expected = slow_nms(d.boxes[row], d.labels[row], present, scores[row], nms_iou)
        assert np.flatnonzero(kept[row]).tolist() == sorted(expected)


def test_hard_nms_is_torchvisions() -> None:
    d, _ = hostile(1)
    scores = d.scores + np.linspace(0, 0.01, d.scores.shape[1])  # torchvision promises nothing for ties
    kept = hard_nms(d.boxes, d.labels, d.mask, scores, 0.5)
    for row in range(len(d)):
        own = np.flatnonzero(d.mask[row])
        columns = (d.boxes[row, own], scores[row, own].astype(np.float32), d.labels[row, own])
        theirs = batched_nms(*map(torch.from_numpy, columns), 0.5)
        assert np.flatnonzero(kept[row]).tolist() == sorted(own[theirs.numpy()].tolist())


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_down_a_table_of_overlaps_leaves_the_same_and_can_be_taken_up_again(seed: int) -> None:
    d, t = hostile(seed)
    overlap = relations(d.boxes, d.labels, d.mask, t, num_classes=4).overlap
    for row in range(len(d)):
        order = np.flatnonzero(d.mask[row])
        order = order[np.argsort(-d.scores[row, order], kind="stable")]
        survivors, half = np.zeros(len(order), dtype=np.int64), len(order) // 2
        kept = suppress(order, 0, half, overlap[row], None, 0.4, survivors, 0)
        kept = suppress(order, half, len(order), overlap[row], None, 0.4, survivors, kept)
        assert survivors[:kept].tolist() == slow_nms(d.boxes[row], d.labels[row], d.mask[row], d.scores[row], 0.4)


def test_no_images_and_no_candidates() -> None:
    for shape in ((0, 3), (2, 0)):
        columns = np.zeros((*shape, 4), dtype=np.float32), np.ones(shape, dtype=np.int64), np.ones(shape, dtype=bool)
        assert hard_nms(*columns, np.zeros(shape), 0.5).shape == shape
