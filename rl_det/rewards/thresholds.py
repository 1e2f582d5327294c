"""The score threshold that a user would set, and what a data set is worth there: of any formula of what is displayed."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.errors import UserError
from rl_det.metrics.outcomes import threshold_counts
from rl_det.rewards.tallied import Tallied
from rl_det.rewards.tallies import Displayed, displayed_tallies


class BestThreshold(NamedTuple):
    """A score threshold, from which on detections are displayed, and the data set's worth there."""

    threshold: float
    worth: float


def best_threshold(
    value: Tallied, detections: DetectionBatch, truths: TruthBatch, *, num_classes: int
) -> BestThreshold:
    """The threshold at which the data set is worth most, of all that make a difference; of equals, the highest.

    At infinity nothing is displayed. A formula is taken of the whole data set, as by `OverThePool`: `f1` is micro F1. Where
    the formula has no number, a threshold is not chosen; if it has none anywhere, the worth is NaN, at infinity.
    Raises UserError for a formula of ranked detections, and ValueError, which names it, for bad input.
    """
    check_displayed(value)
    c = threshold_counts(detections, truths, num_classes=num_classes)
    counts = np.stack([c.found, c.spurious, c.missed, c.miscounted, c.distance]).astype(np.float64)
    worths = value.checked(Displayed(len(truths), num_classes, *counts))
    best = int(np.where(np.isnan(worths), -np.inf, worths).argmax())
    return BestThreshold(float(c.thresholds[best]), float(worths[best]))


def tallies_at(
    detections: DetectionBatch, truths: TruthBatch, threshold: float, *, num_classes: int
) -> Float64[np.ndarray, "B 5"]:
    """Each image's tallies (the columns of `Displayed`) of the detections from a threshold on."""
    displayed = replace(detections, mask=detections.mask & (detections.scores >= threshold))
    return displayed_tallies(displayed, truths, num_classes=num_classes)


def worth_of(value: Tallied, tallies: Float64[np.ndarray, "B 5"], num_classes: int) -> float:
    """The worth of a data set whose images have these tallies."""
    check_displayed(value)
    summed = tallies.sum(0, keepdims=True)
    return float(value.checked(Displayed(len(tallies), num_classes, *summed.T))[0])


def check_displayed(value: Tallied) -> None:
    """Raise UserError unless the value is a formula of what is displayed."""
    if value.kind != "displayed":
        raise UserError(f"a threshold is for a formula of what is displayed, such as f1; got {value!r}")
