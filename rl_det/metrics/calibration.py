"""What became of each detection -> whether its score means what it says: a probability, and a ranking of boxes."""

import numpy as np
from jaxtyping import Float64

from rl_det.metrics.outcomes import Outcomes

NUM_BINS = 20


def detection_calibration_error(outcomes: Outcomes) -> float:
    """D-ECE by confidence alone (Kueppers et al. 2020, eq. 5): mean over bins of |precision - mean score|, by their size.

    In [0, 1]; NaN without detections. Scores must be probabilities; ValueError if not.
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

    In [-1, 1]; ties have their mean rank. NaN with fewer than two correct detections, or if all scores or all IoUs are equal.
    """
    scores, iou = _ranks(outcomes.scores[outcomes.correct]), _ranks(outcomes.iou[outcomes.correct])
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(iou) == 0:
        return float("nan")
    return float(np.corrcoef(scores, iou)[0, 1])


def _ranks(values: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
    """From 0, with the mean rank for equals."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float64[np.ndarray, " M"] = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks
