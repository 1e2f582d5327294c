"""Candidates and true boxes -> the scores that an all-knowing ranker would give: what choice and order can still gain."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.metrics.batch import TruthBatch


def perfect_scores(
    boxes: Float32[np.ndarray, "B N 4"],
    labels: Int64[np.ndarray, "B N"],
    mask: Bool[np.ndarray, "B N"],
    truths: TruthBatch,
) -> Float64[np.ndarray, "B N"]:
    """For each true box one candidate of its class, nearest pairs first, scored by their IoU; -inf for all others.

    Those left out are duplicates and false positives, which AP never misses. Crowds are no true boxes here.
    """
    scores = np.full(mask.shape, -np.inf)
    same = (labels[:, :, None] == truths.labels[:, None]) & mask[:, :, None]
    overlaps = np.where(same & (truths.mask & ~truths.iscrowd)[:, None], _iou(boxes, truths.boxes), 0.0)
    for image, overlap in enumerate(overlaps):
        while overlap.size and overlap.max() > 0:
            candidate, truth = np.unravel_index(overlap.argmax(), overlap.shape)
            scores[image, candidate] = overlap[candidate, truth]
            overlap[candidate], overlap[:, truth] = 0.0, 0.0
    return scores


def _iou(boxes: np.ndarray, others: np.ndarray) -> Float64[np.ndarray, "B N G"]:
    ours, theirs = boxes.astype(np.float64)[:, :, None], others.astype(np.float64)[:, None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    shared = sides.clip(0).prod(-1)
    union = (ours[..., 2:] - ours[..., :2]).prod(-1) + (theirs[..., 2:] - theirs[..., :2]).prod(-1) - shared
    result: Float64[np.ndarray, "B N G"] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result
