"""Calibration of scores: as probabilities of being correct, and as a ranking of boxes by IoU."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.metrics.outcomes import Outcomes

NUM_BINS = 20


class Reliability(NamedTuple):
    """Of the detections in each bin of scores: how many there are, their mean score, and the share that is correct.

    The last two are NaN for a bin without detections.
    """

    counts: Int64[np.ndarray, " K"]
    mean_scores: Float64[np.ndarray, " K"]
    precision: Float64[np.ndarray, " K"]


def reliability(outcomes: Outcomes) -> Reliability:
    """The points of a reliability diagram, in the bins of `detection_calibration_error`, with its ValueError."""
    bins = _bins(outcomes.scores)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = (np.bincount(bins, weights=weights, minlength=NUM_BINS) for weights in (outcomes.scores, outcomes.correct))
    means = [np.where(counts > 0, total / np.maximum(counts, 1), np.nan) for total in sums]
    return Reliability(counts, *means)


def detection_calibration_error(outcomes: Outcomes) -> float:
    """D-ECE by confidence only (Kueppers et al. 2020, eq. 5): the mean over bins, by size, of |precision - mean score|.

    It is in [0, 1], and NaN without detections. Raises ValueError if a score is not a probability.
    """
    scores = outcomes.scores
    if not len(scores):
        return float("nan")
    bins = _bins(scores)
    gaps = np.bincount(bins, weights=outcomes.correct - scores, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def _bins(scores: Float64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """The bin of each score; ValueError for a score that is not a probability."""
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        wrong = scores[(scores < 0) | (scores > 1)][0]
        raise ValueError(
            f"scores must be probabilities, in [0, 1], to be calibrated; got {wrong}; logits need a sigmoid"
        )
    return np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def score_iou_correlation(outcomes: Outcomes) -> float:
    """Spearman's rank correlation of score and IoU among the correct detections (compare Kahraman et al. 2023).

    It is in [-1, 1]; ties get their mean rank. NaN with fewer than two correct detections, or if all scores or all IoUs
    are equal.
    """
    from scipy.stats import spearmanr  # slow to import

    scores, iou = outcomes.scores[outcomes.correct], outcomes.iou[outcomes.correct]
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(iou) == 0:
        return float("nan")
    return float(spearmanr(scores, iou).statistic)
