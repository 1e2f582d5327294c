"""Scores and which detections are correct -> the threshold a user would set, and what it gives."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64


class OperatingPoint(NamedTuple):
    """Detections with a score of at least `threshold` are shown; the three figures are in [0, 1]."""

    threshold: float
    f1: float
    precision: float
    recall: float


def best_f1(scores: Float64[np.ndarray, " M"], correct: Bool[np.ndarray, " M"], num_objects: int) -> OperatingPoint:
    """The threshold of the highest F1 over all classes; of equals, the highest threshold.

    Without detections or without objects the F1 is 0 at threshold 1.
    """
    if not len(scores) or not num_objects:
        return OperatingPoint(1.0, 0.0, 0.0, 0.0)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(correct[order])
    shown = np.arange(1, len(order) + 1)
    last = np.append(np.diff(scores[order]) != 0, True)  # a threshold cannot part equal scores
    f1 = np.where(last, 2 * found / (shown + num_objects), -1.0)
    best = int(f1.argmax())
    return OperatingPoint(
        float(scores[order][best]), float(f1[best]), float(found[best] / shown[best]), float(found[best] / num_objects)
    )
