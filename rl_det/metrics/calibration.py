"""Calibration of scores: as probabilities of being correct, and as a ranking of boxes by IoU."""

import numpy as np
from jaxtyping import Float64

from rl_det.metrics.outcomes import Outcomes

NUM_BINS = 20


def detection_calibration_error(outcomes: Outcomes) -> float:
    """D-ECE by confidence only (Kueppers et al. 2020, eq. 5): the mean over bins, by size, of |precision - mean score|.

    It is in [0, 1], and NaN without detections. Raises ValueError if a score is not a probability.
    """
    scores = outcomes.scores
    if not len(scores):
        return float("nan")
    if scores.min() < 0 or scores.max() > 1:
        wrong = scores[(scores < 0) | (scores > 1)][0]
        raise ValueError(
            f"scores must be probabilities, in [0, 1], to be calibrated; got {wrong}; logits need a sigmoid"
        )
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=outcomes.correct - scores, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def score_iou_correlation(outcomes: Outcomes) -> float:
    """Spearman's rank correlation of score and IoU among the correct detections (compare Kahraman et al. 2023).

    It is in [-1, 1]; ties get their mean rank. NaN with fewer than two correct detections, or if all scores or all IoUs
    are equal.
    """
    scores, iou = _ranks(outcomes.scores[outcomes.correct]), _ranks(outcomes.iou[outcomes.correct])
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(iou) == 0:
        return float("nan")
    return float(np.corrcoef(scores, iou)[0, 1])


def _ranks(values: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
    """The ranks from 0; equal values get their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float64[np.ndarray, " M"] = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks
