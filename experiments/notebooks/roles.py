"""Detections and true boxes -> what each detection is: the one that finds an object, a duplicate, or spurious."""

import numpy as np
from jaxtyping import Bool

from rl_det.ap import DetectionBatch, TruthBatch, match
from rl_det.ap.relations import reach
from rl_det.rewards.edits import NO_LIMIT

AT_HALF = 1
"""The bit of COCO's first IoU threshold, 0.5."""


def roles(detections: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> dict[str, Bool[np.ndarray, "B N"]]:
    """At IoU 0.5, as COCO matches; a duplicate reaches a true box of its class that a better-scored one has."""
    m = match(detections, truths, num_classes=num_classes, options=NO_LIMIT)
    images, places = np.nonzero(np.arange(m.order.shape[1]) < m.starts[:, -1:])
    found = np.zeros_like(detections.mask)
    found[images, m.order[images, places]] = m.hits[0][images, places] & AT_HALF
    reached = (reach(detections, truths, num_classes=num_classes) & AT_HALF).astype(bool)
    return {
        "found": found,
        "duplicate": reached & ~found & detections.mask,
        "spurious": ~reached & detections.mask,
    }
