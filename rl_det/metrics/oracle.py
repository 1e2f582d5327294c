"""The scores of a perfect ranker: an upper bound for what choice and order of candidates can gain."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.ap.batch import TruthBatch
from rl_det.ap.relations import pairwise_iou


def perfect_scores(
    boxes: Float32[np.ndarray, "B N 4"],
    labels: Int64[np.ndarray, "B N"],
    mask: Bool[np.ndarray, "B N"],
    truths: TruthBatch,
) -> Float64[np.ndarray, "B N"]:
    """One candidate for each true box, of its class, nearest pairs first, scored by their IoU; -inf for all others.

    The other candidates are duplicates and false positives, so AP loses nothing without them. Crowds do not count as
    true boxes here.
    """
    scores = np.full(mask.shape, -np.inf)
    same = (labels[:, :, None] == truths.labels[:, None]) & mask[:, :, None]
    overlaps = np.where(same & (truths.mask & ~truths.iscrowd)[:, None], pairwise_iou(boxes, truths.boxes), 0.0)
    for image, overlap in enumerate(overlaps):
        while overlap.size and overlap.max() > 0:
            candidate, truth = np.unravel_index(overlap.argmax(), overlap.shape)
            scores[image, candidate] = overlap[candidate, truth]
            overlap[candidate], overlap[:, truth] = 0.0, 0.0
    return scores
