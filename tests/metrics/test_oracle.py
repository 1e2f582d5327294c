"""Perfect scores: no order and no choice of the same candidates has a higher AP."""

import numpy as np

from rl_det.ap import DetectionBatch, TruthBatch
from rl_det.metrics.oracle import perfect_scores
from rl_det.rewards import Pool

NUM_IMAGES, NUM_CANDIDATES, NUM_TRUTHS, NUM_CLASSES = 6, 10, 4, 2


def scenes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, TruthBatch]:
    """Candidates that lie about true boxes, the last of each image padding."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 30, (NUM_IMAGES, NUM_TRUTHS, 2))
    true_boxes = np.concatenate([corners, corners + rng.uniform(10, 20, corners.shape)], -1).astype(np.float32)
    near = rng.integers(0, NUM_TRUTHS, (NUM_IMAGES, NUM_CANDIDATES))
    noise = rng.uniform(-3, 3, (NUM_IMAGES, NUM_CANDIDATES, 4)).astype(np.float32)
    boxes = np.take_along_axis(true_boxes, near[..., None], 1) + noise
    labels = rng.integers(1, NUM_CLASSES + 1, (NUM_IMAGES, NUM_CANDIDATES))
    mask = np.arange(NUM_CANDIDATES) < NUM_CANDIDATES - np.ones((NUM_IMAGES, 1))
    truths = TruthBatch(
        boxes=true_boxes,
        labels=rng.integers(1, NUM_CLASSES + 1, (NUM_IMAGES, NUM_TRUTHS)),
        area=(true_boxes[..., 2:] - true_boxes[..., :2]).prod(-1),
        iscrowd=np.zeros((NUM_IMAGES, NUM_TRUTHS), dtype=np.bool_),
        mask=np.ones((NUM_IMAGES, NUM_TRUTHS), dtype=np.bool_),
    )
    return boxes, labels, mask, truths


def ap(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, mask: np.ndarray, truths: TruthBatch) -> float:
    found = DetectionBatch(boxes=boxes, labels=labels, scores=scores, mask=mask)
    return Pool(detections=found, truths=truths, num_classes=NUM_CLASSES).ranking.mean_ap


def test_no_random_order_or_choice_beats_it() -> None:
    for seed in range(5):
        boxes, labels, mask, truths = scenes(seed)
        scores = perfect_scores(boxes, labels, mask, truths)
        best = ap(boxes, labels, scores, np.isfinite(scores), truths)
        rng = np.random.default_rng(seed)
        for _ in range(50):
            chosen = mask & (rng.random(mask.shape) < 0.7)
            assert ap(boxes, labels, rng.normal(size=mask.shape), chosen, truths) <= best + 1e-9


def test_each_true_box_has_one_candidate_at_most_and_padding_none() -> None:
    boxes, labels, mask, truths = scenes(0)
    scores = perfect_scores(boxes, labels, mask, truths)
    chosen = np.isfinite(scores)
    assert (chosen.sum(1) <= NUM_TRUTHS).all()
    assert not chosen[~mask].any()
    assert (scores[chosen] > 0).all()


def test_crowds_and_images_without_candidates_choose_nothing() -> None:
    boxes, labels, mask, truths = scenes(0)
    crowds = TruthBatch(**{**vars(truths), "iscrowd": np.ones_like(truths.iscrowd)})
    assert np.isneginf(perfect_scores(boxes, labels, mask, crowds)).all()
    assert perfect_scores(boxes[:, :0], labels[:, :0], mask[:, :0], truths).shape == (NUM_IMAGES, 0)
