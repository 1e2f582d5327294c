"""Tallies of images' detections, the numbers that most metrics are formulas of, each from whole detections.

`rl_det.ap.tallies` has the same for variants in which one candidate acts, without going through all detections again.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from rl_det.ap.average_precision import image_class_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.matching import Matches
from rl_det.metrics.outcomes import image_counts

Kind = Literal["displayed", "ranked"]
"""Tallies of the detections that are displayed to a user, at IoU 0.5; or of all, ranked, at COCO's ten IoU thresholds."""


class Displayed(NamedTuple):
    """Counts of what is displayed, all classes together: of each image, or of a pool with one image changed.

    `distance` is the sum of 1 - IoU over the found true boxes. `miscounted` is the sum over classes, and images, of the
    difference between the numbers of detections and of true boxes. What lies in a crowd counts in none of these, nor does a
    crowd.
    """

    num_images: int
    num_classes: int
    found: Float64[np.ndarray, "*R"]
    spurious: Float64[np.ndarray, "*R"]
    missed: Float64[np.ndarray, "*R"]
    miscounted: Float64[np.ndarray, "*R"]
    distance: Float64[np.ndarray, "*R"]


class Ranked(NamedTuple):
    """Of each image, the sum of its classes' AP, and how many classes it holds or has a detection of that no crowd absorbs."""

    num_images: int
    num_classes: int
    ap: Float64[np.ndarray, "*R"]
    classes: Float64[np.ndarray, "*R"]


def displayed_tallies(displayed: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> Float64[np.ndarray, "B 5"]:
    """The columns of `Displayed`; ValueError on bad input, which it names."""
    c = image_counts(displayed, truths, num_classes=num_classes)
    counts = np.stack([c.found, c.spurious, c.missed, c.miscounted, c.distance], 1)
    return counts.astype(np.float64)


def ranked_tallies(matches: Matches, detections: DetectionBatch, *, num_classes: int) -> Float64[np.ndarray, "B 2"]:
    """The columns of `Ranked`."""
    aps = np.nan_to_num(image_class_ap(matches)[0])
    counted = (matches.positives[0, :, 1:] > 0) | _predicted(matches, detections, num_classes)
    return np.stack([aps.sum(1), counted.sum(1).astype(np.float64)], 1)


def _predicted(matches: Matches, detections: DetectionBatch, num_classes: int) -> Bool[np.ndarray, "B C"]:
    """Which classes have a detection that no crowd absorbs."""
    m = matches
    counted = (np.arange(m.order.shape[1]) < m.starts[:, -1:]) & (m.ignored[0] & 1 == 0)
    rows, places = np.nonzero(counted)
    predicted = np.zeros((len(m), num_classes), dtype=np.bool_)
    predicted[rows, detections.labels[rows, m.order[rows, places]] - 1] = True
    return predicted
